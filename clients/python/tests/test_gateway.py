"""Against the real gateway: killed in the middle, not a change is missed."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bugfeed_client import Bugfeed, BugfeedError, Event
from tests.support import Gateway, binary

if not binary():
    if os.environ.get("BUGFEED_TEST_REQUIRE"):
        raise RuntimeError("no gateway: set BUGFEED_TEST_BIN, or run cargo build")
    pytest.skip("no gateway: set BUGFEED_TEST_BIN, or run cargo build", allow_module_level=True)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(binary() or "", tmp_path)
    gateway.start()
    yield gateway
    gateway.kill()


async def state(feed: Bugfeed, wanted: str) -> None:
    async def wait() -> None:
        while feed.state != wanted:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 30)


async def subscribed(feed: Bugfeed) -> None:
    """Until the gateway has answered the subscription."""

    async def wait() -> None:
        while feed.state != "open" or not feed.cursor:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 30)


async def read(reader: AsyncIterator[Event], count: int) -> list[int]:
    seen: list[int] = []
    for _ in range(count):
        event = await asyncio.wait_for(reader.__anext__(), 30)
        seen.extend(event.bugs)
    return seen


def test_killed_restarted_and_resumed_none_missed_none_twice(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "bot.cursor"

    async def first_run() -> None:
        async with Bugfeed(gateway.url, state=file, heartbeat=1) as feed:
            feed.subscribe(1, 2, 3)
            await subscribed(feed)
            reader = feed.watch()
            gateway.touch(1, 2, 9)
            assert await read(reader, 2) == [1, 2]
            assert feed.protocol == "modern"

            gateway.kill()
            await state(feed, "waiting")
            gateway.touch(3, 1)  # In the table, where the shim finds them.
            gateway.start()
            assert await read(reader, 2) == [3, 1]
            assert feed.replay == "complete"
            gateway.touch(2)
            assert await read(reader, 1) == [2]

    async def second_run() -> None:
        async with Bugfeed(gateway.url, state=file) as feed:
            reader = feed.watch([1, 2, 3])
            # What was in hand when the bot ended comes again: it had not asked for the next one.
            assert await read(reader, 2) == [2, 3]
            feed.unsubscribe(1, 2)
            gateway.touch(1, 3)
            assert await read(reader, 1) == [3]

    asyncio.run(first_run())
    gateway.touch(3)
    asyncio.run(second_run())


def test_a_gateway_that_is_stopped_says_when_to_come_back(gateway: Gateway) -> None:
    async def run() -> None:
        reasons: list[str] = []

        def on_state(state: str, reason: str) -> None:
            reasons.append(reason)

        async with Bugfeed(gateway.url, on_state=on_state) as feed:
            feed.subscribe(1)
            await subscribed(feed)
            await asyncio.get_running_loop().run_in_executor(None, gateway.stop)
            await state(feed, "waiting")
            gateway.touch(1)
            gateway.start()
            assert await read(feed.watch(), 1) == [1]
            assert any("restarts" in reason for reason in reasons), reasons

    asyncio.run(run())


def test_a_fresh_start_from_the_head_misses_nothing(gateway: Gateway) -> None:
    async def run() -> None:
        async with Bugfeed(gateway.url) as other:
            other.subscribe(77)
            await subscribed(other)
            gateway.touch(77)
            assert await read(other.watch(), 1) == [77]
        async with Bugfeed(gateway.url) as feed:
            await feed.start_from_head()
            gateway.touch(78)  # While the tracker is asked which bugs there are.
            assert await read(feed.watch([77, 78]), 1) == [78]

    asyncio.run(run())


def test_refusals(gateway: Gateway) -> None:
    async def run() -> None:
        async with Bugfeed(gateway.url) as feed:
            with pytest.raises(BugfeedError, match="too many subscriptions") as refused:
                await read(feed.watch(range(1, 10_002)), 1)
            assert not refused.value.final and len(refused.value.bugs) == 10_001
        async with Bugfeed(f"{gateway.url}nonsense/") as feed:
            with pytest.raises(BugfeedError, match="feeds:") as final:
                await read(feed.watch([1]), 1)
            assert final.value.final and final.value.status == 404

    asyncio.run(run())


def test_a_connection_is_ended_properly_when_the_feed_is_left(gateway: Gateway) -> None:
    async def run() -> None:
        before = asyncio.all_tasks()
        async with Bugfeed(gateway.url) as feed:
            feed.subscribe(1)
            await subscribed(feed)
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(run(), 5))
