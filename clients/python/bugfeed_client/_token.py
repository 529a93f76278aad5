"""Tokens, for gateways that ask for one: where they come from, when they expire, and that nobody sees them."""

import inspect
import logging
import re
from collections import deque
from collections.abc import Awaitable
from datetime import datetime, timezone
from typing import Callable, Optional, Union

#: A token, or a function that gives one, at once or when it is awaited.
TokenSource = Union[str, Callable[[], Union[str, Awaitable[str]]]]

#: What a WebSocket's subprotocol may hold: that is how browsers send the same tokens.
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
#: So many of those that were given are looked for in what is shown: the one in use, and those that it replaced.
_REMEMBERED = 4


class Token:
    """Gives tokens, and shows none.

    :raises ValueError: if a text is none; without showing it
    """

    def __init__(self, source: TokenSource) -> None:
        #: Whether there is another one to be had.
        self.is_asked = not isinstance(source, str)
        self._source = source if callable(source) else _checked(source)
        self._given: deque[str] = deque(maxlen=_REMEMBERED)

    async def get(self) -> str:
        """The text, or what the function gives now. Raises what it raises, and ``ValueError`` if that is no token."""
        given = self._source() if callable(self._source) else self._source
        token = _checked(await given if inspect.isawaitable(given) else given)
        if token not in self._given:
            self._given.append(token)
        return token

    def hide(self, text: str) -> str:
        """What somebody else said, who may have repeated the token."""
        for token in self._given:
            text = text.replace(token, "…")
        return text

    def __repr__(self) -> str:
        return f"Token({'asked for' if self.is_asked else 'a text'})"


def _checked(token: object) -> str:
    if isinstance(token, str) and _TOKEN.fullmatch(token.strip()):
        return token.strip()  # From a file, with the end of its line.
    raise ValueError("not a token: it is letters, digits, and - . _ ~")


def seconds_left(expires: object) -> Optional[float]:
    """How long a token is good for that expires then, by the clock here; None where that is no date."""
    if not isinstance(expires, str):
        return None
    try:
        at = datetime.fromisoformat(expires.rstrip("Z").partition(".")[0])
    except ValueError:
        return None
    return (at.replace(tzinfo=at.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds()


class _Quiet(logging.Filter):
    """``websockets`` logs what it sends, at the level of DEBUG: not the header and the command that hold a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage().lower()
        if text.startswith("> authorization:") or '"command":"hello"' in text:
            record.msg, record.args = "> (not shown: it may hold a token)", ()
        return True


#: For ``websockets``; it is heard by whoever listens to the one that it has by itself.
quiet_log = logging.getLogger("websockets.client.bugfeed")
quiet_log.addFilter(_Quiet())
