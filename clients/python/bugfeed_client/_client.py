"""The feed as an application sees it: asynchronous, and durable if it is given a place for its cursor."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Callable, Optional, Union
from urllib.parse import urlsplit

from ._core import Core, Transport, number
from ._events import BugfeedError, Change, Event
from ._state import FileState, State
from ._websocket import WebSocketTransport

log = logging.getLogger("bugfeed_client")

#: Events that may wait for a slow reader, and twice the bugs; beyond that, only the newest change of each bug.
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
    :param connect: further arguments of ``websockets.connect``, such as ``ssl``, ``proxy`` or ``additional_headers``
    :param on_state: called with ``connecting``, ``open``, ``waiting`` or ``closed``, and a reason (or ``""``)
    :param transport: another way to reach the gateway than WebSocket
    :raises ValueError: if the address or the heartbeat is none
    """

    def __init__(
        self,
        url: str,
        *,
        state: Union[State, str, "os.PathLike[str]", None] = None,
        heartbeat: int = 30,
        connect: Optional[Mapping[str, Any]] = None,
        on_state: Optional[Callable[[str, str], None]] = None,
        transport: Optional[Transport] = None,
    ) -> None:
        scheme, rest = urlsplit(url).scheme, urlsplit(url).hostname
        if scheme not in ("ws", "wss", "http", "https") or not rest:
            raise ValueError(f"not a gateway's address: {url!r}; write ws://HOST:PORT/, or wss://HOST/ for TLS")
        if not isinstance(heartbeat, int) or not 1 <= heartbeat <= 300:
            raise ValueError("heartbeat is a whole number of seconds from 1 to 300")
        self._url = url.replace("http", "ws", 1) if scheme.startswith("http") else url
        self._state = FileState(state) if isinstance(state, (str, os.PathLike)) else state
        self._heartbeat = heartbeat
        self._sockets = WebSocketTransport(connect or {})
        self._transport: Transport = transport or self._sockets
        self._on_state = on_state
        self._core: Optional[Core] = None
        self._queue: deque[_Waiting] = deque()
        self._more: asyncio.Event  # Made when entered: in Python 3.9 it belongs to the loop it is made in.
        self._reader: object = None
        self._in_hand: Optional[_Waiting] = None
        self._saved: Optional[str] = None
        self._failure: Optional[BugfeedError] = None

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
            changed=self._changed,
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
        await self._sockets.finish()

    async def watch(self, bugs: Iterable[Union[int, str]] = ()) -> AsyncIterator[Event]:
        """Watches these bugs besides those that are watched already, and yields changes and gaps as they come.

        The cursor is saved when the loop asks for the next event: a bot that dies, or leaves the feed, while it deals
        with one gets that one again when it is run the next time. After leaving the loop, ``watch()`` goes on.

        :raises BugfeedError: if a subscription is refused (``watch()`` goes on without those bugs), the cursor cannot
            be saved, or trying again would not help
        :raises ValueError: if one is no bug number (1 to 2^63 - 1)
        """
        self.subscribe(*bugs)
        reader = self._reader = object()
        while True:
            self._dealt_with()
            while self._queue:
                item, cursor = self._in_hand = self._queue.popleft()
                if isinstance(item, BugfeedError):
                    raise item
                if item is not None:
                    yield item
                    if self._reader is not reader:
                        raise BugfeedError("another watch() reads this feed")
                self._dealt_with()
            if self._failure:
                raise self._failure
            if self._running.state == "closed":
                return
            self._more.clear()
            await self._more.wait()
            if self._reader is not reader:
                raise BugfeedError("another watch() reads this feed")

    def subscribe(self, *bugs: Union[int, str]) -> None:
        """Watches more bugs, connected or not; ``ValueError`` if one is none, and then nothing changes."""
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
        log.log(logging.WARNING if state == "waiting" else logging.INFO, "%s: %s %s", self._url, state, reason)
        self._more.set()
        if self._on_state:
            self._on_state(state, reason)

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
        if len(self._queue) > MAX_WAITING + 2 * len(self._running.bugs):
            self._queue = deque(_newest(self._queue))
        self._more.set()

    def _dealt_with(self) -> None:
        if self._in_hand is None:
            return
        (_, cursor), self._in_hand = self._in_hand, None
        if not self._state or not cursor or cursor == self._saved:
            return
        try:
            self._state.save(cursor)
        except OSError as error:
            raise BugfeedError(f"cannot save the cursor: {error}") from error
        self._saved = cursor


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
