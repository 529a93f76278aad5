"""Cancelling a wait ends no subscription and loses no event, whoever cancels it and whenever."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Callable, Optional

import pytest

from bugfeed_client import Bugfeed, BugfeedError, Change, Event
from tests.support import FakeNetwork

WHEN = "2014-04-03T21:13:45"


class Memory:
    cursor: Optional[str] = None

    def load(self) -> Optional[str]:
        return self.cursor

    def save(self, cursor: str) -> None:
        self.cursor = cursor


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def anext_(reader: AsyncIterator[Event]) -> Event:
    """A coroutine of its own, as ``anext`` makes one in Python 3.10."""
    return await reader.__anext__()


def with_feed(test: Callable[[Bugfeed, FakeNetwork, Memory], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        network, memory = FakeNetwork(), Memory()
        async with Bugfeed("ws://gateway.test/", state=memory, transport=network) as feed:
            network.link.accept()
            await test(feed, network, memory)

    asyncio.run(run())


def test_a_wait_that_times_out_ends_nothing() -> None:
    async def test(feed: Bugfeed, network: FakeNetwork, memory: Memory) -> None:
        reader = feed.watch([1, 2])
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext_(reader), 0.001)
        network.link.update(1, 5)
        assert await asyncio.wait_for(anext_(reader), 30) == Change(1, WHEN)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext_(reader), 0.001)
        assert memory.cursor == "E.5", "the next one was asked for"
        network.link.update(2, 6)
        async for event in reader:
            assert event == Change(2, WHEN)
            break

    with_feed(test)


def test_a_wait_that_is_cancelled_just_when_an_event_comes_leaves_it() -> None:
    async def test(feed: Bugfeed, network: FakeNetwork, memory: Memory) -> None:
        reader = feed.watch([1])
        wait = asyncio.ensure_future(anext_(reader))
        await settled()
        network.link.update(1, 5)  # Wakes it, but it has not run again yet.
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        network.link.heartbeat(6)
        assert memory.cursor is None, "nothing was handed out"
        wait = asyncio.ensure_future(anext_(reader))
        wait.cancel()  # Before it has begun.
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert await anext_(reader) == Change(1, WHEN)
        assert memory.cursor is None, "it is being dealt with"

    with_feed(test)


def test_whatever_is_cancelled_each_event_comes_once_and_in_order() -> None:
    async def test(feed: Bugfeed, network: FakeNetwork, memory: Memory) -> None:
        chance = random.Random(34)
        reader, sent = feed.watch(range(1, 201)), 0
        seen: list[int] = []
        while len(seen) < 200:
            wait = asyncio.ensure_future(anext_(reader))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if sent < 200 and chance.random() < 0.7:
                sent += 1
                network.link.update(sent, sent)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            wait.cancel()
            try:
                seen.append((await wait).bugs[0])
            except asyncio.CancelledError:
                pass
            assert int((memory.cursor or "E.0")[2:]) <= (seen[-1] if seen else 0), "what was handed out, at most"
        assert seen == list(range(1, 201))

    with_feed(test)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with Python 3.11")
def test_timeouts_and_task_groups_around_the_loop() -> None:
    async def test(feed: Bugfeed, network: FakeNetwork, _: Memory) -> None:
        seen: list[Event] = []
        reader = feed.watch([1, 2])

        async def read() -> None:
            async for event in reader:
                seen.append(event)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):  # type: ignore[attr-defined,unused-ignore]
                await read()

        async def fail() -> None:
            network.link.update(1, 5)
            await settled()
            raise ZeroDivisionError

        with pytest.raises(BaseException) as group:
            async with asyncio.TaskGroup() as tasks:  # type: ignore[attr-defined,unused-ignore]
                tasks.create_task(read())
                await settled()
                tasks.create_task(fail())
        assert "ExceptionGroup" in repr(group.value)
        assert seen == [Change(1, WHEN)]
        network.link.update(2, 6)
        assert await anext_(reader) == Change(2, WHEN)
        assert feed.state == "open"

    with_feed(test)


def test_two_iterators() -> None:
    async def test(feed: Bugfeed, network: FakeNetwork, _: Memory) -> None:
        one, two = feed.watch([1]), feed.watch([2])
        assert feed.bugs == [1, 2]
        network.link.update(1, 5)
        assert await anext_(one) == Change(1, WHEN)
        waiting = asyncio.ensure_future(anext_(one))
        await settled()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext_(two), 0.001)
        with pytest.raises(BugfeedError, match="another watch"):
            network.link.update(2, 6)
            await waiting
        with pytest.raises(BugfeedError, match="another watch"):
            await anext_(one)
        assert await anext_(two) == Change(2, WHEN)

    with_feed(test)


def test_a_wait_that_was_forgotten_takes_nothing() -> None:
    """``asyncio.wait`` leaves the tasks alone that it did not wait for: who asks anew instead gets the event."""

    async def test(feed: Bugfeed, network: FakeNetwork, _: Memory) -> None:
        reader = feed.watch([1])
        forgotten = asyncio.ensure_future(anext_(reader))
        await asyncio.wait({forgotten}, timeout=0.001)
        again = asyncio.ensure_future(anext_(reader))
        await settled()
        network.link.update(1, 5)
        assert await again == Change(1, WHEN)
        with pytest.raises(BugfeedError, match="asked for again"):
            await forgotten
        # One that is cancelled is in nobody's way.
        forgotten = asyncio.ensure_future(anext_(reader))
        await settled()
        forgotten.cancel()
        network.link.update(1, 6)
        assert await anext_(reader) == Change(1, WHEN)
        with pytest.raises(asyncio.CancelledError):
            await forgotten

    with_feed(test)


def test_a_refusal_leaves_the_iterator_as_it_is() -> None:
    async def test(feed: Bugfeed, network: FakeNetwork, _: Memory) -> None:
        reader = feed.watch([1])
        network.link.say(command="subscribe", result="error", error="too many subscriptions")
        with pytest.raises(BugfeedError, match="too many"):
            await anext_(reader)
        feed.subscribe(2)
        network.link.update(2, 5)
        assert await anext_(reader) == Change(2, WHEN)

    with_feed(test)


def test_waiting_for_the_head_may_be_cancelled() -> None:
    async def run() -> None:
        network = FakeNetwork()
        async with Bugfeed("ws://gateway.test/", transport=network) as feed:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(feed.start_from_head(), 0.001)
            network.link.accept()
            await feed.start_from_head()
            assert feed.cursor == "E.1"

    asyncio.run(run())


def test_callbacks_and_states_that_fail_do_not_stop_the_feed() -> None:
    class Broken(Memory):
        def save(self, cursor: str) -> None:
            raise KeyError(cursor)  # As of somebody's database.

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        network = FakeNetwork()
        feed = Bugfeed("ws://gateway.test/", state=Broken(), transport=network, on_state=fail, on_feed=fail)
        async with feed:
            network.link.accept()
            network.link.say(command="feed", state="paused")
            assert (feed.state, feed.feed_state) == ("open", "paused")
            reader = feed.watch([1])
            network.link.heartbeat(5)
            with pytest.raises(BugfeedError, match="cannot save the cursor"):
                await anext_(reader)
            network.link.update(1, 6)
            assert await anext_(reader) == Change(1, WHEN)
            network.link.listener.close(code=1006)
            assert feed.state == "waiting"

    asyncio.run(run())
