"""What the conversations of ../../conformance do not show: reading in a loop, the state that is kept, errors."""

import asyncio
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Optional

import pytest

from bugfeed_client import Bugfeed, BugfeedError, Change, Event, FileState, Gap
from bugfeed_client._websocket import retry_after
from tests.support import FakeNetwork

WHEN = "2014-04-03T21:13:45"


class Memory:
    def __init__(self, cursor: Optional[str] = None) -> None:
        self.cursor = cursor

    def load(self) -> Optional[str]:
        return self.cursor

    def save(self, cursor: str) -> None:
        self.cursor = cursor


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_cursor_is_saved_when_the_loop_asks_for_the_next_event_not_before() -> None:
    async def run() -> None:
        network, state = FakeNetwork(), Memory()
        async with Bugfeed("ws://gateway.test/", state=state, transport=network) as feed:
            network.link.accept()
            reader = feed.watch([1, 2])
            first = asyncio.ensure_future(reader.__anext__())
            await settled()
            network.link.say(command="subscribe", result="ok", count=2, cursor="E.1")
            assert state.cursor == "E.1", "nothing is being dealt with"
            network.link.update(1, 5)
            network.link.heartbeat(6)
            network.link.update(2, 7)
            assert await first == Change(1, WHEN)
            network.link.heartbeat(8)
            assert state.cursor == "E.1", "bug 1 is being dealt with"
            assert feed.cursor == "E.8", "a reconnect need not ask again"
            assert await reader.__anext__() == Change(2, WHEN)
            assert state.cursor == "E.6", "bug 2 is being dealt with"
            third = asyncio.ensure_future(reader.__anext__())
            await settled()
            assert state.cursor == "E.8"
            network.link.say(command="gap", cursor="E.9")
            assert await third == Gap((1, 2))
            network.link.heartbeat(10)
            assert state.cursor == "E.8", "the gap is being dealt with"
        assert state.cursor == "E.8", "what was in hand when the feed was left comes again"

    asyncio.run(run())


def test_a_gap_is_told_when_it_is_due_and_no_cursor_passes_it_before() -> None:
    async def run() -> None:
        network, state = FakeNetwork(), Memory("E.1")
        async with Bugfeed("ws://gateway.test/", state=state, transport=network) as feed:
            network.link.accept()
            reader = feed.watch([1, 2])
            network.link.say(command="gap", cursor="E.9", spread_ms=50)
            network.link.update(1, 10)
            assert await reader.__anext__() == Change(1, WHEN)
            gap = asyncio.ensure_future(reader.__anext__())
            await settled()
            network.link.heartbeat(11)
            assert (state.cursor, feed.cursor) == ("E.1", "E.11")
            assert await gap == Gap((1, 2))
            assert state.cursor == "E.1", "the gap is being dealt with"
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.__anext__(), 0.001)
            assert state.cursor == "E.11"

    asyncio.run(run())


def test_whether_anything_can_arrive_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        network = FakeNetwork()
        told: list[tuple[str, Optional[str], str]] = []

        def on_feed(state: str, since: Optional[str]) -> None:
            told.append((state, since, feed.feed_state))

        async with Bugfeed("ws://gateway.test/", transport=network, on_feed=on_feed) as feed:
            network.link.accept()
            assert feed.feed_state == "live"
            network.link.say(command="feed", state="paused", since=WHEN)
            network.link.say(command="heartbeat", state="paused", cursor="E.5")
            network.link.heartbeat(6)
            network.link.say(command="heartbeat", state="paused", cursor="E.6")
            assert told == [("paused", WHEN, "paused"), ("live", None, "live"), ("paused", None, "paused")]

    asyncio.run(run())
    told = [record.message for record in caplog.records if "updates" in record.message]
    assert told == [
        f"ws://gateway.test/: updates are paused since {WHEN}: nothing can arrive just now",
        "ws://gateway.test/: updates are paused: nothing can arrive just now",
    ]


def test_a_loop_that_is_left_goes_on_with_the_next_event() -> None:
    async def run() -> None:
        network, state = FakeNetwork(), Memory()
        async with Bugfeed("ws://gateway.test/", state=state, transport=network) as feed:
            network.link.accept()
            feed.subscribe(1, "2")
            for seq in (5, 6, 7):
                network.link.update(1, seq)
            async for _ in feed.watch():
                break
            assert state.cursor is None
            async for _ in feed.watch():
                assert state.cursor == "E.5"
                break

    asyncio.run(run())


def test_a_second_loop_takes_over_from_the_first() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            network.link.accept()
            old = asyncio.ensure_future(feed.watch([1]).__anext__())
            await settled()
            new = asyncio.ensure_future(feed.watch([1]).__anext__())
            await settled()
            network.link.update(1, 5)
            assert await new == Change(1, WHEN)
            with pytest.raises(BugfeedError, match="another watch"):
                await old

    asyncio.run(run())


def test_a_slow_reader_gets_the_newest_change_of_each_bug_in_order_and_every_gap() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            network.link.accept()
            feed.subscribe(1, 2, 3)
            for seq in range(2, 10_009):
                network.link.update(1 if seq % 2 else 3, seq)
                if seq == 50:
                    network.link.say(command="gap", cursor="E.50")
            network.link.update(2, 20_000)
            seen: list[Event] = []
            async for event in feed.watch():
                seen.append(event)
                if event.bugs == (2,):
                    break
            assert [event.bugs for event in seen[:3]] == [(1, 2, 3), (3,), (1,)]
            assert len(seen) < 10

    asyncio.run(run())


def test_what_ends_the_feed_is_raised_after_what_came_before_and_again() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            network.link.accept()
            feed.subscribe(1)
            network.link.update(1, 5)
            network.link.listener.close(code=1009, reason="message too big")
            seen = []
            for _ in range(2):
                with pytest.raises(BugfeedError, match="message too big") as raised:
                    async for event in feed.watch():
                        seen.append(event)
                assert raised.value.final and raised.value.code == 1009
            assert seen == [Change(1, WHEN)]
            assert feed.state == "closed"

    asyncio.run(run())


def test_a_refused_subscription_is_raised_and_the_feed_goes_on() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            network.link.accept()
            feed.subscribe(1)
            network.link.say(command="subscribe", result="ok", count=1, cursor="E.1")
            feed.subscribe(2)
            network.link.say(command="subscribe", result="error", error="too many subscriptions")
            with pytest.raises(BugfeedError, match="too many") as raised:
                await feed.watch().__anext__()
            assert raised.value.bugs == (2,) and not raised.value.final
            network.link.update(1, 5)
            assert await feed.watch().__anext__() == Change(1, WHEN)
            assert feed.bugs == [1]

    asyncio.run(run())


def test_a_cursor_that_cannot_be_saved_is_raised() -> None:
    class Full(Memory):
        def save(self, cursor: str) -> None:
            raise OSError("disk full")

    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", state=Full(), transport=network) as feed:
            network.link.accept()
            feed.subscribe(1)
            network.link.heartbeat(5)
            with pytest.raises(BugfeedError, match="disk full"):
                await feed.watch().__anext__()
            network.link.update(1, 6)
            reader = feed.watch()
            assert await reader.__anext__() == Change(1, WHEN)
            with pytest.raises(BugfeedError, match="disk full"):
                await reader.__anext__()

    asyncio.run(run())


def test_leaving_ends_the_loop_and_the_connection() -> None:
    async def run() -> None:
        network, states = FakeNetwork(), []

        def on_state(state: str, reason: str) -> None:
            states.append(state)

        feed = Bugfeed("ws://gateway.test/", transport=network, on_state=on_state)
        async with feed:
            network.link.accept()
            waiting = asyncio.ensure_future(feed.watch([1]).__anext__())
            await settled()
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert network.link.ended
        assert states == ["connecting", "open", "closed"]
        with pytest.raises(RuntimeError, match="once"):
            await feed.__aenter__()

    asyncio.run(run())


def test_closing_ends_the_loop_whatever_waits() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            network.link.accept()
            feed.subscribe(1)
            network.link.update(1, 5)
            network.link.update(1, 6)
            seen = 0
            async for _ in feed.watch():
                seen += 1
                await feed.close()
            assert seen == 1

    asyncio.run(run())


def test_starting_from_the_head() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            ready = asyncio.ensure_future(feed.start_from_head())
            await settled()
            assert not ready.done()
            network.link.accept()
            await ready
            feed.subscribe(1)
            assert network.link.sent[-1] == {"command": "subscribe", "bugs": [1], "cursor": "E.1"}
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", state=Memory("E.0"), transport=network) as feed:
            await feed.start_from_head()
            assert feed.cursor == "E.0"
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            network.link.listener.close(status=404, reason="no such feed", gateway=True)
            with pytest.raises(BugfeedError, match="no such feed"):
                await feed.start_from_head()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "least"),
    [
        ("503 Full\r\nRetry-After: 2", 2.5),
        ("429 Slow Down\r\nRetry-After: 86400", 300.5),
        ("503 Full\r\nRetry-After: soon", 0.5),
        ("503 Full", 0.5),
        ("500 Oops\r\nRetry-After: 9", 0.5),
        ("408 Timeout", 0.5),
        ("425 Early", 0.5),
    ],
)
def test_an_answer_that_means_later_says_how_much(answer: str, least: float) -> None:
    """The first back-off, half a second to a second, comes on top of what the gateway asks for."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async def run() -> None:
        waiting: asyncio.Queue[str] = asyncio.Queue()

        def on_state(state: str, reason: str) -> None:
            if state == "waiting":
                waiting.put_nowait(reason)

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with server, Bugfeed(url, on_state=on_state):
            reason = await asyncio.wait_for(waiting.get(), 30)
            delay = float(reason.split()[-2])
            assert least <= delay <= least + 0.5, reason

    asyncio.run(run())


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(" 120 ") == 120
    assert retry_after(None) is retry_after("soon") is retry_after("-5") is retry_after("") is None
    soon = datetime.now(timezone.utc) + timedelta(minutes=2)
    assert 100 < (retry_after(format_datetime(soon, usegmt=True)) or 0) <= 120
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_what_is_deeply_nested_breaks_nothing() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            network.link.accept()
            network.link.listener.message("[" * 200_000)
            network.link.listener.message('{"command":"update","bug":' + "9" * 10_000 + "}")
            assert feed.state == "open"

    asyncio.run(run())


def test_the_file_of_a_cursor(tmp_path: Path) -> None:
    path = tmp_path / "bot.cursor"
    state = FileState(path)
    assert state.load() is None
    state.save("E.5")
    assert path.read_text() == "E.5\n"
    state.save("E.6")
    assert FileState(str(path)).load() == "E.6"
    assert [file.name for file in tmp_path.iterdir()] == ["bot.cursor"]
    # A power cut may empty a file or fill it with zeros; a long one would be refused for its size, for good.
    for content in ("", "\0\0\0", "E.1\nE.2\n", "É.1", "x" * 300_000):
        path.write_text(content)
        assert state.load() == "damaged", f"no fresh start: {content:.20}"
    with pytest.raises(OSError):
        FileState(tmp_path).load()


def test_the_time_of_a_change() -> None:
    second = datetime(2014, 4, 3, 21, 13, 45, tzinfo=timezone.utc)
    assert Change(1, WHEN).time == second
    assert Change(1, WHEN + ".25").time == second.replace(microsecond=250_000)
    assert Change(1, WHEN + ".123456").time == second.replace(microsecond=123_456)


@pytest.mark.parametrize("bug", [0, -1, 2**63, True, 1.5, "x", "", "1e3", None])
def test_what_is_no_bug_number(bug: Any) -> None:
    async def run() -> None:
        async with Bugfeed("ws://gateway.test/", transport=FakeNetwork()) as feed:
            with pytest.raises(ValueError, match="not a bug number"):
                feed.subscribe(9, bug)
            assert feed.bugs == []
            feed.subscribe(" 12 ", 2**63 - 1)
            assert feed.bugs == [12, 2**63 - 1]

    asyncio.run(run())


def test_arguments_that_are_none() -> None:
    for url in ("gateway.test", "ftp://gateway.test/", "ws:///", ""):
        with pytest.raises(ValueError, match="address"):
            Bugfeed(url)
    heartbeat: Any
    for heartbeat in (0, 301, 1.5, "30"):
        with pytest.raises(ValueError, match="heartbeat"):
            Bugfeed("ws://gateway.test/", heartbeat=heartbeat)
    with pytest.raises(RuntimeError, match="async with"):
        Bugfeed("https://gateway.test/").subscribe(1)
