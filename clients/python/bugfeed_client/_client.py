"""The feed as an application sees it: asynchronous, and durable if it is given a place for its cursor."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Callable, Optional, Union
from urllib.parse import urlsplit

from ._core import ALL, Core, number
from ._events import BugfeedError, Change, Event
from ._state import FileState, State
from ._token import Token, TokenSource
from ._transport import Transport
from ._websocket import WebSocketTransport
from ._words import plain, shown

log = logging.getLogger("bugfeed_client")

#: Events that may wait for a slow reader, and twice the bugs (who watches all: those that changed); beyond that, only
#: the newest change of each bug.
MAX_WAITING = 10_000

_Waiting = tuple[Union[Event, BugfeedError, None], Optional[str]]


class Bugfeed:
    """A feed of changes. Connects when it is entered, and again whenever the connection breaks, until it is left. ::

        async with Bugfeed("ws://127.0.0.1:8844/", state="bot.cursor") as feed:
            async for event in feed.watch([1234, 5678]):
                for bug in event.bugs:
                    print("look at bug", bug)

    What was missed while there was no connection comes as ordinary changes, or, where nobody knows, as a gap.
    Delivery is at least once: a change may come twice after a reconnect, rarely; and while this client or its network
    is slow, only the newest change of each bug comes.

    :param url: the feed's address, ``ws://HOST:PORT/`` or ``wss://HOST/NAME/``; ``http(s)`` is taken for ``ws(s)``
    :param state: where the cursor is kept so that the next run resumes where this one ended: a file's path, or an
        object with ``load`` and ``save``. One for each set of bugs.
    :param heartbeat: how often the gateway should be heard, in seconds, 1 to 300. Silence for 2.5 times as long is a
        dead connection.
    :param token: for gateways that ask for one: the token, or a function (``async`` or not) that gives one, which is
        asked before each attempt to connect, and before a token expires. Refused or expired, a token that is a text
        ends the feed; a function is asked for another one. Sent as ``Authorization``, shown nowhere; None and ``""``
        are none
    :param connect: further arguments of ``websockets.connect``, such as ``ssl``, ``proxy`` or ``additional_headers``
    :param on_state: called with ``connecting``, ``open``, ``waiting`` or ``closed``, and a reason (or ``""``)
    :param on_feed: called with ``paused`` when nothing can arrive just now although the connection stands (the broker
        or the tracker's database is away), with ``live`` when it can again; and since when, in UTC, or None
    :param on_trouble: called with a :class:`BugfeedError` that ends nothing but that somebody should look at: three
        attempts to connect in a row failed alike (a proxy's 404, a certificate). Logged besides
    :param transport: another way to reach the gateway than WebSocket
    :raises ValueError: if the address, the heartbeat or the token is none, or there is a token for another transport
    """

    def __init__(
        self,
        url: str,
        *,
        state: Union[State, str, "os.PathLike[str]", None] = None,
        heartbeat: int = 30,
        token: Optional[TokenSource] = None,
        connect: Optional[Mapping[str, Any]] = None,
        on_state: Optional[Callable[[str, str], None]] = None,
        on_feed: Optional[Callable[[str, Optional[str]], None]] = None,
        on_trouble: Optional[Callable[[BugfeedError], None]] = None,
        transport: Optional[Transport] = None,
    ) -> None:
        scheme = _scheme(url)
        if not isinstance(heartbeat, int) or not 1 <= heartbeat <= 300:
            raise ValueError("heartbeat is a whole number of seconds from 1 to 300")
        self._url = url.replace("http", "ws", 1) if scheme.startswith("http") else url
        self._state = FileState(state) if isinstance(state, (str, os.PathLike)) else state
        self._heartbeat = heartbeat
        if token and transport:
            raise ValueError("token is for WebSocket; another transport has its own ways")
        self._token = Token(token) if token else None
        self._sockets = WebSocketTransport(connect or {}, self._token)
        self._transport: Transport = transport or self._sockets
        self._on_state, self._on_feed, self._on_trouble = on_state, on_feed, on_trouble
        self._core: Optional[Core] = None
        self._queue: deque[_Waiting] = deque()
        #: How much was left when only the newest was kept.
        self._left = 0
        self._more: asyncio.Event  # Made when entered: in Python 3.9 it belongs to the loop it is made in.
        self._reader: Optional[_Reader] = None
        self._asking: object = None
        self._in_hand: Optional[_Waiting] = None
        self._saved: Optional[str] = None
        self._failure: Optional[BugfeedError] = None
        self._renewing: Optional[asyncio.Task[None]] = None

    async def __aenter__(self) -> "Bugfeed":
        if self._core:
            raise RuntimeError("a Bugfeed is entered once; make another one")
        self._more = asyncio.Event()
        self._saved = self._state.load() if self._state else None
        self._core = Core(
            self._url,
            self._transport,
            asyncio.get_running_loop(),
            self._deliver,
            cursor=self._saved,
            heartbeat=self._heartbeat,
            token=self._token,
            renew=self._renew,
            changed=self._changed,
            fed=self._fed,
            troubled=self._troubled,
        )
        self._core.start()
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the feed, and ``watch`` with it. Leaving the ``async with`` does the same."""
        self._queue.clear()
        self._running.close()
        if self._renewing:
            self._renewing.cancel()
        await self._sockets.finish()

    def watch(self, bugs: Iterable[Union[int, str]] = ()) -> AsyncIterator[Event]:
        """Watches these bugs besides those that are watched already, and yields changes and gaps as they come.

        Instead of bugs, ``"all"`` watches every bug of the feed, where the operator allows it (``--allow-all``); a gap
        then has ``all`` set, and no bugs.

        The cursor is saved when the loop asks for the next event: a bot that dies, or leaves the feed, while it deals
        with one gets that one again when it is run the next time. After leaving the loop, ``watch()`` goes on.

        A wait for the next event may be cancelled at any time, by ``asyncio.wait_for`` for example: nothing is lost,
        and the same loop or iterator goes on. What was handed out, though, is the application's: if it is cancelled
        while it deals with an event and then asks for the next one, it says that it is done with that one.

        :raises BugfeedError: if a subscription is refused (the loop may be entered again, without those bugs), the
            cursor cannot be saved, or trying again would not help
        :raises ValueError: if one is no bug number (1 to 2^63 - 1)
        """
        self.subscribe(*([ALL] if bugs == ALL else bugs))
        return _Reader(self._next)

    def subscribe(self, *bugs: Union[int, str]) -> None:
        """Watches more bugs, or ``"all"``, connected or not; ``ValueError`` if one is none: then nothing changes."""
        if ALL in bugs:
            return self._running.subscribe_to_all()
        self._running.subscribe([number(bug) for bug in bugs])

    def unsubscribe(self, *bugs: Union[int, str]) -> None:
        """Stops watching bugs."""
        self._running.unsubscribe([number(bug) for bug in bugs])

    async def start_from_head(self) -> None:
        """For a start that misses nothing: await this, ask the tracker which bugs there are, then watch them; what
        changes in between comes. Does nothing if a cursor was saved already, and waits for the gateway otherwise.

        :raises BugfeedError: if trying to connect again would not help
        """
        core = self._running
        while not core.cursor and core.state != "open":
            if self._failure:
                raise self._failure
            self._more.clear()
            await self._more.wait()
        core.cursor = core.cursor or core.head

    @property
    def state(self) -> str:
        """``connecting`` until the gateway has answered, ``open``, ``waiting`` (to try again), or ``closed``."""
        return self._running.state

    @property
    def feed_state(self) -> str:
        """``live``, or ``paused`` while nothing can arrive although the connection stands. What the gateway said last;
        ``live`` if it never said anything."""
        return self._running.feed_state

    @property
    def protocol(self) -> Optional[str]:
        """``modern``, or ``classic`` for a gateway of 2014, which resumes by date and cannot tell when that is not
        enough. None until it has answered."""
        return self._running.protocol

    @property
    def replay(self) -> Optional[str]:
        """The last verdict on what was missed: ``complete``, ``latest`` (of each bug the newest change), or ``gap``."""
        return self._running.replay

    @property
    def cursor(self) -> Optional[str]:
        """Up to here everything was received; opaque text."""
        return self._running.cursor

    @property
    def bugs(self) -> list[int]:
        """What is watched, or will be once there is a connection, ascending."""
        return sorted(self._running.bugs)

    @property
    def _running(self) -> Core:
        if not self._core:
            raise RuntimeError("not connected; write: async with Bugfeed(url) as feed: …")
        return self._core

    def _changed(self, state: str, reason: str) -> None:
        log.log(logging.WARNING if state == "waiting" else logging.INFO, "%s: %s %s", shown(self._url), state, reason)
        self._more.set()
        _call(self._on_state, state, reason)

    def _fed(self, state: str, since: Optional[str]) -> None:
        if state == "paused":
            told = f" since {plain(since)}" if since else ""
            log.warning("%s: updates are paused%s: nothing can arrive just now", shown(self._url), told)
        else:
            log.info("%s: updates flow again", shown(self._url))
        _call(self._on_feed, state, since)

    def _troubled(self, error: BugfeedError) -> None:
        log.error("%s", error)
        _call(self._on_trouble, error)

    def _renew(self) -> None:
        self._renewing = asyncio.get_running_loop().create_task(self._send_token())

    async def _send_token(self) -> None:
        """Another token, into the session that there is now."""
        core = self._running
        connection = core.connection
        assert self._token
        try:
            token = await self._token.get()
        except Exception as error:  # Of a function of the application's.
            why = plain(str(error)) or type(error).__name__
            return log.warning("%s: no token to renew the session with: %s", shown(self._url), why)
        core.renewed(connection, token)

    async def _next(self, reader: "_Reader") -> Event:
        """The next event for this reader, which takes over from others. It is taken and handed out without a pause in
        between in which it could be cancelled."""
        if self._reader is not reader:
            if reader.has_begun:
                raise BugfeedError("another watch() reads this feed")
            reader.has_begun, self._reader = True, reader
        # Asking for an event says that the last one was dealt with.
        self._dealt_with()
        asking = self._asking = object()
        while True:
            while self._queue:
                item, _ = self._in_hand = self._queue.popleft()
                if isinstance(item, BugfeedError):
                    raise item
                if item is not None:
                    return item
                self._dealt_with()
            if self._failure:
                raise self._failure
            if self._running.state == "closed":
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
            if self._reader is not reader:
                raise BugfeedError("another watch() reads this feed")
            if self._asking is not asking:
                raise BugfeedError("the next event was asked for again while this wait for it went on")

    def _deliver(self, item: Union[Event, BugfeedError, None], cursor: Optional[str]) -> None:
        if isinstance(item, BugfeedError) and item.final:
            self._failure = item
            self._more.set()
            return
        self._queue.append((item, cursor))
        if item is None and len(self._queue) == 1 and self._in_hand is None:
            # Nothing is being dealt with, and nothing waits.
            self._in_hand = self._queue.popleft()
            try:
                self._dealt_with()
            except BugfeedError as error:
                self._queue.append((error, None))
        if len(self._queue) == 1:
            self._left = 0
        if len(self._queue) > MAX_WAITING + 2 * max(len(self._running.bugs), self._left):
            self._queue = deque(_newest(self._queue))
            self._left = len(self._queue)
        self._more.set()

    def _dealt_with(self) -> None:
        if self._in_hand is None:
            return
        (_, cursor), self._in_hand = self._in_hand, None
        if not self._state or not cursor or cursor == self._saved:
            return
        try:
            self._state.save(cursor)
        except Exception as error:  # Of a file, or of whatever the application keeps it in.
            raise BugfeedError(f"cannot save the cursor: {error}") from error
        self._saved = cursor


class _Reader(AsyncIterator[Event]):
    """An iterator, and no generator: those end for good when a wait in them is cancelled."""

    def __init__(self, following: "Callable[[_Reader], Coroutine[Any, Any, Event]]") -> None:
        self._following = following
        self._is_closed = False
        #: Whether it has been asked for an event.
        self.has_begun = False

    async def __anext__(self) -> Event:
        if self._is_closed:
            raise StopAsyncIteration
        return await self._following(self)

    async def aclose(self) -> None:
        """As generators have it, for ``contextlib.aclosing``. The feed goes on."""
        self._is_closed = True


def _scheme(url: str) -> str:
    """The address's; ``ValueError`` if it is none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss", "http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False  # Its words may hold a password.
    if good:
        return parts.scheme
    raise ValueError(f"not a gateway's address: '{shown(url)}'; write ws://HOST:PORT/, or wss://HOST/ for TLS")


def _call(callback: Optional[Callable[..., None]], *arguments: object) -> None:
    """The application's own; what goes wrong there must not stop the feed half-way."""
    try:
        if callback:
            callback(*arguments)
    except Exception:
        log.exception("bugfeed: a callback failed")


def _newest(waiting: Iterable[_Waiting]) -> Iterable[_Waiting]:
    """All but those changes and cursors that later ones outdate, in order."""
    kept: dict[object, _Waiting] = {}
    for entry in waiting:
        item = entry[0]
        # Gaps and errors all stay.
        key: object = item.bug if isinstance(item, Change) else None if item is None else (id(item),)
        kept.pop(key, None)
        kept[key] = entry
    return kept.values()
