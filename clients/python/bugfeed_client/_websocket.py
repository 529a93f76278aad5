"""The transport over WebSocket."""

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Optional, Union
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosed,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
    WebSocketException,
)

from ._token import Token, quiet_log
from ._transport import Link, Listener
from ._words import first_line, plain, proxy_unused, proxy_used, shown, without_answer

log = logging.getLogger("bugfeed_client")

#: How long a gateway may take to answer a close frame, in seconds.
CLOSE_S = 1.0


class WebSocketTransport:
    """Makes connections, with a token where one is given. ``options`` are further arguments of ``websockets``'
    ``connect``."""

    def __init__(self, options: Mapping[str, Any], token: Optional[Token] = None) -> None:
        # The core sees to time-outs and heartbeats; the protocol knows no extensions.
        ours = {"compression": None, "ping_interval": None, "close_timeout": CLOSE_S, "open_timeout": None}
        self._options = {**ours, **options}
        self._token = token
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, url: str, listener: Listener) -> Link:
        link = _Link(url, listener, self._options, self._token)
        task = link.task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return link

    async def finish(self) -> None:
        """Waits until all connections that were closed are gone."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


def retry_after(text: Optional[str]) -> Optional[float]:
    """What ``Retry-After`` asks for, in seconds: it is a number of them, or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):
        return None  # No date, or one without a zone.


def why(error: BaseException, url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a listener is told of an attempt that failed."""
    cause: Optional[BaseException] = error
    # A redirect that the library follows no further (to http(s)://, for example) hides in what it says of that.
    while cause and not isinstance(cause, InvalidStatus):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, InvalidStatus):
        response = cause.response
        text = first_line(bytes(response.body or b"")) or plain(response.reason_phrase)
        text = text[4:] if text.startswith(f"{response.status_code} ") else text  # As nginx has it in its pages.
        location = next(iter(response.headers.get_all("Location")), None)
        if location and 300 <= response.status_code < 400:
            text = f"{text}, which leads to {shown(location)}"
        return {
            "status": response.status_code,
            "reason": text,
            "retry_after": retry_after(next(iter(response.headers.get_all("Retry-After")), None)),
            "gateway": "Bugfeed-Version" in response.headers,
        }
    used = proxy_used(url, options)
    via = f"the proxy that {used} names" if used else "the proxy"
    if isinstance(error, InvalidProxyStatus):
        return {"status": error.response.status_code, "reason": f"{error.response.reason_phrase}, says {via}"}
    if isinstance(error, (InvalidProxy, ProxyError, ImportError)):
        # The library's own words may show the proxy's password.
        need = "; install python-socks" if isinstance(error, ImportError) else ""
        return {"reason": f"cannot connect to {shown(url)} through {via}{need}", "fault": "proxy"}
    reason, fault = without_answer(error, url)
    if used:
        reason += f" (through {via})"
    elif unused := proxy_unused(url):
        reason += f" ({unused} is set; not used here)"
    return {"reason": reason, "fault": fault}


class _Connect(connect):
    """Does not hand the token on to another server where a redirect leads; not every ``websockets`` sees to that."""

    def process_redirect(self, exc: Exception) -> Union[Exception, str]:
        before = urlsplit(self.uri)
        after = super().process_redirect(exc)
        if isinstance(after, str) and urlsplit(after)[:2] != before[:2]:
            self.additional_headers = _without_token(self.additional_headers)
        return after


def _without_token(headers: Any) -> Headers:
    """The headers, in whatever form ``websockets`` takes them, but for ``Authorization``."""
    left = Headers(headers or {})
    if "Authorization" in left:
        del left["Authorization"]
    return left


def _with_token(options: Mapping[str, Any], token: str) -> Mapping[str, Any]:
    headers = _without_token(options.get("additional_headers"))
    headers["Authorization"] = f"Bearer {token}"
    return {"logger": quiet_log, **options, "additional_headers": headers}


class _Link:
    def __init__(self, url: str, listener: Listener, options: Mapping[str, Any], token: Optional[Token]) -> None:
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._listener = listener
        self._token = token
        self.task = asyncio.get_running_loop().create_task(self._run(url, options))

    def send(self, command: Mapping[str, Any]) -> None:
        self._outbox.put_nowait(json.dumps(command, separators=(",", ":")))

    def close(self) -> None:
        self.task.cancel()

    async def _run(self, url: str, options: Mapping[str, Any]) -> None:
        if self._token:
            try:
                options = _with_token(options, await self._token.get())
            except Exception as error:  # Of a function of the application's.
                return self._close(reason=f"no token: {plain(str(error)) or type(error).__name__}", fault="token")
        try:
            socket = await _Connect(url, **options)
        except (OSError, EOFError, asyncio.TimeoutError, ImportError, WebSocketException) as error:
            return self._close(**why(error, url, options))
        except Exception as error:
            log.exception("bugfeed: unexpected; cannot connect")
            return self._close(reason=plain(str(error)) or type(error).__name__)
        try:
            try:
                code, reason = await self._talk(socket)
            finally:
                await socket.close()
        except (OSError, EOFError, asyncio.TimeoutError, WebSocketException) as error:
            self._close(reason=str(error) or type(error).__name__)
        except Exception as error:
            log.exception("bugfeed: unexpected; the connection is given up")
            self._close(reason=str(error))
        else:
            self._close(code=code, reason=reason)

    def _close(self, *, reason: str, **why: Any) -> None:
        self._listener.close(reason=self._token.hide(reason) if self._token else reason, **why)

    async def _talk(self, socket: ClientConnection) -> "tuple[int, str]":
        self._listener.open()
        writer = asyncio.get_running_loop().create_task(self._write(socket))
        try:
            async for text in socket:
                if isinstance(text, str):
                    self._listener.message(text)
        except ConnectionClosed:
            pass
        finally:
            writer.cancel()
        return socket.close_code or 1006, plain(socket.close_reason or "")

    async def _write(self, socket: ClientConnection) -> None:
        try:
            while True:
                await socket.send(await self._outbox.get())
        except ConnectionClosed:
            pass  # The reader tells.
