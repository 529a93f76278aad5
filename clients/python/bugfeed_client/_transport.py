"""What the core needs of a connection and of a clock."""

from collections.abc import Mapping
from typing import Any, Callable, Optional, Protocol


class Link(Protocol):
    """One connection, as a transport made it."""

    def send(self, command: Mapping[str, Any]) -> None:
        """Sends a command of the protocol. Only after ``open``."""

    def close(self) -> None:
        """Ends the connection; nothing that it reports afterwards counts."""


class Listener(Protocol):
    """Whom a transport reports to, never before it has returned."""

    def open(self) -> None: ...

    def message(self, text: str) -> None: ...

    def close(
        self,
        *,
        code: Optional[int] = None,
        reason: str = "",
        status: Optional[int] = None,
        retry_after: Optional[float] = None,
        gateway: bool = False,
        fault: str = "",
    ) -> None:
        """The end, or that there was no beginning: a close code of RFC 6455, or an HTTP status and how many seconds
        its ``Retry-After`` asks to wait, where they are known. ``gateway``: whether it was the gateway that answered
        (its header ``Bugfeed-Version``), and no proxy. ``fault``: which other fault kept it from beginning, in a
        word, so that the same one is noticed (``tls``, ``dns``)."""


Transport = Callable[[str, Listener], Link]


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What is needed of an asyncio event loop."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Timer: ...
