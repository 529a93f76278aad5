"""Tokens, against the real gateway: what becomes of a session when they expire or are taken away."""

import asyncio
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from bugfeed_client import Bugfeed, BugfeedError
from tests.support import Gateway, binary

if not binary():
    if os.environ.get("BUGFEED_TEST_REQUIRE"):
        raise RuntimeError("no gateway: set BUGFEED_TEST_BIN, or run cargo build")
    pytest.skip("no gateway: set BUGFEED_TEST_BIN, or run cargo build", allow_module_level=True)


class Tokens:
    """The file of ``--tokens``, at which the gateway looks each second."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "tokens.toml"
        self.gateway = Gateway(binary() or "", directory, "--tokens", str(self.file))
        self.entries: dict[str, str] = {}

    def make(self, name: str, *options: str) -> str:
        token, self.entries[name] = self.gateway.token(name, *options)
        self.write()
        return token

    def write(self) -> None:
        self.file.write_text("\n".join(self.entries.values()))

    def is_known(self, token: str) -> bool:
        url = f"{self.gateway.url.replace('ws', 'http')}changes?bugs="
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=10
            ):
                return True
        except urllib.error.HTTPError:
            return False


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    tokens = Tokens(tmp_path)
    tokens.write()
    yield tokens
    tokens.gateway.kill()


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def subscribed(feed: Bugfeed) -> None:
    while feed.state != "open" or not feed.cursor:
        await asyncio.sleep(0.01)


def test_with_a_token_changes_come_and_bugs_that_it_is_not_for_are_refused(tokens: Tokens) -> None:
    good = tokens.make("good", "--bugs", "1,2")
    tokens.gateway.start()

    async def test() -> None:
        async with Bugfeed(tokens.gateway.url, token=good) as feed:
            reader = feed.watch([1])
            await subscribed(feed)
            tokens.gateway.touch(1)
            assert (await reader.__anext__()).bugs == (1,)
            feed.subscribe(7)
            with pytest.raises(BugfeedError, match="this token is not for bug 7") as raised:
                await reader.__anext__()
            assert (raised.value.bugs, raised.value.final, feed.bugs) == ((7,), False, [1])
        for token, told in (("bft_no", "401 invalid token: it is not known"), (None, r"\(4401\): a token is needed")):
            async with Bugfeed(tokens.gateway.url, token=token) as feed:
                with pytest.raises(BugfeedError, match=told) as raised:
                    await feed.watch([1]).__anext__()
                assert raised.value.final and feed.bugs == [1] and "bft_no" not in str(raised.value)

    run(test)


def test_a_token_that_expires_within_a_session_and_one_that_is_taken_away(tokens: Tokens) -> None:
    tokens.gateway.start()
    soon = (datetime.now(timezone.utc) + timedelta(seconds=4)).strftime("%Y-%m-%dT%H:%M:%S")
    first, second = tokens.make("first", "--expires", soon), tokens.make("second")
    while not tokens.is_known(second):
        pass
    left = iter((first, second))
    states: list[tuple[str, str]] = []

    async def token() -> str:
        return next(left)

    async def test() -> None:
        feed = Bugfeed(tokens.gateway.url, token=token, on_state=lambda *told: states.append(told))
        async with feed:
            reader = feed.watch([1])
            await subscribed(feed)
            while len(states) < 4:
                await asyncio.sleep(0.01)
            tokens.gateway.touch(1)
            assert (await reader.__anext__()).bugs == (1,)
            assert [state for state, _ in states] == ["connecting", "open", "waiting", "connecting", "open"]
            assert states[2][1] == "token expired; reconnect with a new one; trying again in 0.0 s"
            del tokens.entries["second"]
            tokens.write()
            with pytest.raises(BugfeedError, match=r"\(4403\): this token was taken away") as raised:
                await reader.__anext__()
            assert raised.value.final

    run(test)
