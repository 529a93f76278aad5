"""The client protocol, without a network, a clock or an event loop: those are handed in, so that tests bring their own.

What comes back to the application goes to ``deliver(item, cursor)``: a change, a gap or an error (or None), and the
cursor that may be stored once the item is dealt with (or None). What it may want to know besides goes to ``changed``
(the connection), ``fed`` (whether anything can arrive) and ``troubled`` (answers that somebody should look at).
"""

import json
import random
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Callable, Optional, Union

from ._events import BugfeedError, Change, Event, Gap
from ._token import Token, seconds_left
from ._transport import Clock, Link, Timer, Transport
from ._words import advice, plain, shown

#: The close code of sessions that need a token or whose token has expired; and of those whose token was taken away.
NO_TOKEN, REVOKED = 4401, 4403
#: Close codes after which the same would be refused again.
FINAL: frozenset[int] = frozenset((1002, 1003, 1007, 1009, NO_TOKEN, REVOKED))
#: HTTP statuses of the 400s that mean "later", not "never".
LATER: frozenset[int] = frozenset((408, 425, 429))
#: Those with which a server may say how much later (``Retry-After``).
BUSY: frozenset[int] = frozenset((429, 503))
#: How long opening a connection may take, in seconds.
CONNECT_S = 15.0
#: No gateway is waited for longer than this, in seconds, and no gap is told later.
MAX_WAIT_S = 300.0
#: A token that expires sooner is not renewed, in seconds: then the session ends, and another begins.
MIN_RENEW_S = 10.0
#: So many attempts in a row that end alike are worth a word.
TRIES = 3
#: Marks a cursor that is a date, for gateways that know no cursors.
SINCE = "since:"
#: The cursor of those who were given none: no gateway made it, so that resuming from it is a gap.
UNKNOWN = "unknown"
#: What stands for bugs where all of them are meant.
ALL = "all"
MAX_BUG = 2**63 - 1


def number(bug: Union[int, str]) -> int:
    """Checks a bug number; ``ValueError`` if it is none."""
    if isinstance(bug, str) and bug.strip().isdecimal():
        bug = int(bug)
    if isinstance(bug, int) and not isinstance(bug, bool) and 1 <= bug <= MAX_BUG:
        return bug
    raise ValueError(f"not a bug number: {bug!r}")


def _within(value: object, least: float, most: float) -> Optional[float]:
    """The value, if it is a number of that range."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    return float(value) if good else None  # type: ignore[arg-type]


class _Asked:
    """A command that is not answered yet."""

    def __init__(self, command: Mapping[str, Any], first: bool) -> None:
        self.command: str = command["command"]
        self.all = command.get("bugs") == ALL
        self.bugs: list[int] = [] if self.all else command.get("bugs", [])
        self.cursor: Optional[str] = command.get("cursor")
        self.first = first


class _Pending:
    """A gap that is to be told later. What comes meanwhile is told at once, but its cursor waits here: whoever stored
    it and died would never hear of the gap."""

    def __init__(self) -> None:
        self.bugs: set[int] = set()
        self.all = False
        self.cursor: Optional[str] = None
        self.at = float("inf")
        self.timer: Optional[Timer] = None


class _Connection:
    """What is known of one connection. It listens to its link, for as long as it is the feed's."""

    def __init__(self, core: "Core") -> None:
        self.core = core
        self.link: Optional[Link] = None
        self.is_open = False
        #: Whether hello was answered, and nothing has come since.
        self.is_new = False
        self.is_welcome = False
        self.resumed = False
        self.sent: set[int] = set()
        self.sent_all = False
        self.asked: list[_Asked] = []
        self.interval = float(core.heartbeat)
        self.retry_after: Optional[float] = None

    def open(self) -> None:
        if self is self.core.connection:
            self.core.opened(self)

    def message(self, text: str) -> None:
        if self is self.core.connection:
            self.core.received(self, text)

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
        if self is self.core.connection:
            self.core.lost(code, reason, status, retry_after, gateway, fault)


class Core:
    """A feed: ``connecting`` from ``start`` on, ``open``, ``waiting``, or ``closed`` for good."""

    def __init__(
        self,
        url: str,
        transport: Transport,
        clock: Clock,
        deliver: Callable[[Union[Event, BugfeedError, None], Optional[str]], None],
        *,
        bugs: Iterable[int] = (),
        cursor: Optional[str] = None,
        heartbeat: int = 30,
        token: Optional[Token] = None,
        renew: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = random.random,
        changed: Callable[[str, str], None] = lambda state, reason: None,
        fed: Callable[[str, Optional[str]], None] = lambda state, since: None,
        troubled: Callable[[BugfeedError], None] = lambda error: None,
    ) -> None:
        self.url = url
        self.state = "connecting"
        self.feed_state = "live"
        self.protocol: Optional[str] = None
        self.replay: Optional[str] = None
        self.head: Optional[str] = None
        self.cursor = cursor
        self.bugs: set[int] = set(bugs)
        #: Whether all bugs of the feed are watched; then the single ones make no difference.
        self.all = False
        self.heartbeat = heartbeat
        self.connection: Optional[_Connection] = None
        self._transport = transport
        self._clock = clock
        self._deliver = deliver
        self._token = token
        #: Asks for another token, for ``renewed``.
        self._renew = renew
        self._renewal: Optional[Timer] = None
        #: Whether the last token was refused, and nothing has come since that only a good one brings.
        self._is_refused = False
        self._chance = chance
        self._changed = changed
        self._fed = fed
        self._troubled = troubled
        self._timer: Optional[Timer] = None
        self._failures = 0
        self._alike: tuple[object, int] = (None, 0)
        self._pending: Optional[_Pending] = None

    # What the application does.

    def start(self) -> None:
        if self.state == "closed":
            return
        connection = self.connection = _Connection(self)
        self.protocol = None
        self._become("connecting")
        self._after(CONNECT_S, lambda: self.lost(None, f"{shown(self.url)} does not answer within {CONNECT_S:.0f} s"))
        connection.link = self._transport(self.url, connection)

    def subscribe(self, bugs: Iterable[int]) -> None:
        self.bugs.update(bugs)
        self._flush()

    def subscribe_to_all(self) -> None:
        self.all = True
        self._flush()

    def unsubscribe(self, bugs: Iterable[int]) -> None:
        self.bugs.difference_update(bugs)
        self._flush()

    def close(self) -> None:
        if self.state == "closed":
            return
        if self._timer:
            self._timer.cancel()
        if self._pending and self._pending.timer:
            self._pending.timer.cancel()
        self._leave()
        self._become("closed")

    # What the link reports.

    def opened(self, connection: _Connection) -> None:
        connection.is_open = True
        self._heard(connection)
        self._ask(connection, {"command": "hello", "heartbeat": self.heartbeat})
        self._flush()

    def lost(
        self,
        code: Optional[int],
        reason: str,
        status: Optional[int] = None,
        retry_after: Optional[float] = None,
        gateway: bool = False,
        fault: str = "",
    ) -> None:
        connection = self.connection
        self._leave()
        # A gateway that goes away says when to come back, another time to each client.
        delay = connection.retry_after if connection else None
        refused = code == NO_TOKEN or (gateway and status == 401)
        if refused and self._token and self._token.is_asked:
            # Another token may be had: at once, but not twice in a row.
            delay = None if self._is_refused else 0.0
            self._is_refused = True
        # Only the gateway itself can say "never": a proxy says 404 while the gateway behind it restarts.
        elif gateway and status is not None and 400 <= status < 500 and status not in LATER:
            what = "wants another token" if refused and self._token else "wants a token" if refused else "is no feed"
            return self._fail(f"{shown(self.url)} {what}: {status} {reason}".rstrip(), status=status)
        elif code in FINAL:
            expired = "; the token was refused or has expired" if refused and self._token else ""
            return self._fail(f"closed by the gateway ({code}): {reason}{expired}", code=code)
        if delay is None:
            delay = min(2.0 ** min(self._failures, 10), 30.0) * (0.5 + self._chance() / 2)
            self._failures += 1
            # A gateway that is full says the same to all: the back-off comes on top, so that they do not come together.
            if status in BUSY:
                delay += min(retry_after or 0.0, MAX_WAIT_S)
        self._after(delay, self.start)
        if status is not None:
            reason = f"{shown(self.url)} answers {status} {reason}".rstrip()
        reason = reason or f"connection lost ({code})"
        self._become("waiting", f"{reason}; trying again in {delay:.1f} s")
        self._count(status or fault or None, reason, status, gateway)

    def _count(self, kind: object, reason: str, status: Optional[int], gateway: bool) -> None:
        """Says so, once, when three attempts in a row have ended alike: that may not mend itself."""
        last, times = self._alike
        self._alike = (kind, times + 1 if kind == last else 1)
        if kind and self._alike[1] == TRIES:
            hint = "" if gateway else advice(status)
            words = filter(None, (f"{reason}, {TRIES} times in a row", hint, "this client goes on trying"))
            self._troubled(BugfeedError("; ".join(words), status=status))

    def received(self, connection: _Connection, text: str) -> None:
        if not self._is_refused:
            self._failures = 0
        self._heard(connection)
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        command = message.get("command")
        cursor = message.get("cursor")
        cursor = cursor if isinstance(cursor, str) else None
        # A gateway whose feed is paused says so right after the reply to hello, or in a heartbeat.
        if connection.is_new or command in ("feed", "heartbeat"):
            self._flows(message if command in ("feed", "heartbeat") else {})
        connection.is_new = False
        # Those without a token are greeted all the same.
        if self._is_refused and command != "hello" and message.get("result") != "error":
            self._is_refused, self._failures = False, 0
        if command == "update":
            self._updated(message.get("bug"), message.get("when"), cursor)
        elif command == "gap":
            spread_ms = _within(message.get("spread_ms"), 0, float("inf"))
            spread = min((spread_ms or 0.0) / 1000, MAX_WAIT_S)
            self._lose(connection.sent, cursor, spread, connection.sent_all)
        elif command == "goaway":
            delay_ms = _within(message.get("retry_after_ms"), 0, float("inf"))
            if delay_ms is not None:
                connection.retry_after = min(delay_ms / 1000, MAX_WAIT_S)
            self._move(cursor)
        elif command == "heartbeat":
            self._move(cursor)
        elif command != "feed":
            asked = next((asked for asked in connection.asked if asked.command == command), None)
            if asked:
                connection.asked.remove(asked)
                self._answered(connection, asked, message, cursor)

    # Connecting, waiting, closed.

    def _dead(self) -> None:
        self.lost(None, "the gateway is silent")

    def _leave(self) -> None:
        connection, self.connection = self.connection, None
        if self._renewal:
            self._renewal.cancel()
        if connection and connection.link:
            connection.link.close()

    def _fail(self, message: str, *, code: Optional[int] = None, status: Optional[int] = None) -> None:
        self._deliver(BugfeedError(message, final=True, code=code, status=status), None)
        self.close()

    def _become(self, state: str, reason: str = "") -> None:
        self.state = state
        self._changed(state, reason)

    def _heard(self, connection: _Connection) -> None:
        """Something came. Classic gateways send no heartbeat, so they are asked for a sign of life."""
        interval = connection.interval
        if self.protocol != "classic":
            return self._after(2.5 * interval, self._dead)

        def probe() -> None:
            assert connection.link
            connection.link.send({"command": "version"})
            self._after(1.5 * interval, self._dead)

        self._after(interval, probe)

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        """What happens next if nothing else does."""
        if self._timer:
            self._timer.cancel()
        self._timer = self._clock.call_later(seconds, then)

    # What the gateway is asked for.

    def _flush(self) -> None:
        connection = self.connection
        if not connection or not connection.is_open:
            return
        if self.all:
            if not connection.sent_all:
                connection.sent_all = True
                self._ask_for(connection, ALL)
            return
        drop, add = sorted(connection.sent - self.bugs), sorted(self.bugs - connection.sent)
        connection.sent = set(self.bugs)
        if drop:
            self._ask(connection, {"command": "unsubscribe", "bugs": drop})
        if add:
            self._ask_for(connection, add)

    def _ask_for(self, connection: _Connection, bugs: Union[str, list[int]]) -> None:
        command: dict[str, Any] = {"command": "subscribe", "bugs": bugs}
        first = not connection.resumed
        if first and self.cursor:
            if self.cursor.startswith(SINCE):
                command["since"] = self.cursor[len(SINCE) :]
            else:
                command["cursor"] = self.cursor
        connection.resumed = True
        self._ask(connection, command, first)

    def _ask(self, connection: _Connection, command: Mapping[str, Any], first: bool = False) -> None:
        connection.asked.append(_Asked(command, first))
        assert connection.link
        connection.link.send(command)

    # What the gateway says.

    def _updated(self, bug: object, when: object, cursor: Optional[str]) -> None:
        if isinstance(bug, bool) or not isinstance(bug, int) or not isinstance(when, str):
            return
        self._move(cursor or self._since(when), Change(bug, when) if self.all or bug in self.bugs else None)

    def _answered(
        self, connection: _Connection, asked: _Asked, message: Mapping[str, Any], cursor: Optional[str]
    ) -> None:
        error = plain(str(message.get("error"))) if message.get("result") == "error" else None
        if error is not None and error.startswith("a token is needed"):
            self.lost(NO_TOKEN, error)
        elif asked.command == "hello":
            self._renew_before(message.get("expires"))
            if not connection.is_welcome:
                self._welcomed(connection, message.get("heartbeat"), cursor, error)
        elif error is not None:
            self._refused(connection, asked, error)
        elif asked.command == "subscribe":
            self._subscribed(asked, message.get("replay"), cursor)
        else:
            self._move(cursor)

    def _welcomed(
        self, connection: _Connection, heartbeat: object, cursor: Optional[str], error: Optional[str]
    ) -> None:
        if error is not None and error != "invalid command":
            return self._fail(f"hello refused by the gateway: {error}")
        connection.is_welcome = True
        self.protocol = "modern" if error is None else "classic"
        connection.interval = _within(heartbeat, 1, 300) or connection.interval
        # For those who start afresh; it is no position of ours.
        self.head = cursor or UNKNOWN
        connection.is_new = True
        self._heard(connection)
        self._become("open", "" if error is None else "a gateway of 2014: it resumes by date, and cannot tell of gaps")

    def _renew_before(self, expires: object) -> None:
        """In the same session, about a tenth of its time before the token expires. Nothing is lost if that fails: the
        session ends when the token does, and the next one begins with another."""
        left = seconds_left(expires) if self._token and self._token.is_asked else None
        if left and left >= MIN_RENEW_S:
            self._renewal = self._clock.call_later(left * (0.85 + self._chance() / 10), self._renew)

    def renewed(self, connection: Optional[_Connection], token: str) -> None:
        """Another token, for this connection if it is still there."""
        if connection and connection is self.connection:
            self._ask(connection, {"command": "hello", "heartbeat": self.heartbeat, "token": token})

    def _subscribed(self, asked: _Asked, replay: object, cursor: Optional[str]) -> None:
        self.replay = replay if isinstance(replay, str) else None
        # Verdict gap, or none on a cursor (classic gateways do not know cursors): nobody can tell what was missed.
        missed = asked.cursor and replay not in ("complete", "latest")
        begun = cursor or (None if self.cursor else UNKNOWN)
        self._lose(asked.bugs if missed else (), begun, all_bugs=bool(missed) and asked.all)

    def _refused(self, connection: _Connection, asked: _Asked, error: str) -> None:
        self.bugs.difference_update(asked.bugs)
        connection.sent.difference_update(asked.bugs)
        if asked.all:
            self.all = connection.sent_all = False
        if asked.first:
            connection.resumed = False
        message = f"{asked.command} refused by the gateway: {error}"
        self._deliver(BugfeedError(message, bugs=tuple(asked.bugs)), None)
        # Where it was all, single ones may be left.
        self._flush()

    def _flows(self, message: Mapping[str, Any]) -> None:
        """What the message says of whether anything can arrive."""
        state = "paused" if message.get("state") == "paused" else "live"
        if state != self.feed_state:
            self.feed_state = state
            since = message.get("since")
            self._fed(state, since if isinstance(since, str) else None)

    def _lose(self, bugs: Iterable[int], cursor: Optional[str], spread: float = 0.0, all_bugs: bool = False) -> None:
        """Nobody can tell what these bugs, or all, went through up to the cursor. To be told within ``spread`` seconds,
        by chance: a gap is told to everybody, and nobody shall ask the tracker at the same moment as all others."""
        lost = self.bugs.intersection(bugs)
        if not lost and not all_bugs:
            return self._move(cursor)
        pending = self._pending = self._pending or _Pending()
        pending.bugs |= lost
        pending.all |= all_bugs
        self._move(cursor)
        delay = spread and spread * self._chance()
        at = self._clock.time() + delay
        if not delay:
            self._tell_gap()
        elif at < pending.at:
            if pending.timer:
                pending.timer.cancel()
            pending.at, pending.timer = at, self._clock.call_later(delay, self._tell_gap)

    def _tell_gap(self) -> None:
        pending, self._pending = self._pending, None
        if pending:
            if pending.timer:
                pending.timer.cancel()
            if pending.all and self.all:
                return self._move(pending.cursor, Gap((), all=True))
            lost = tuple(sorted(self.bugs & pending.bugs))
            self._move(pending.cursor, Gap(lost) if lost else None)

    def _since(self, when: str) -> Optional[str]:
        """Where to resume on a classic gateway: the largest date received, but none that lies in the future."""
        since = SINCE + when
        is_later = not self.cursor or not self.cursor.startswith(SINCE) or since > self.cursor
        is_past = when < datetime.now(timezone.utc).isoformat()
        return since if self.protocol == "classic" and is_later and is_past else None

    def _move(self, cursor: Optional[str], item: Optional[Event] = None) -> None:
        if cursor:
            self.cursor = cursor
        if cursor and self._pending:
            self._pending.cursor, cursor = cursor, None
        if cursor or item:
            self._deliver(item, cursor)
