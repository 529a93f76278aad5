"""Tokens: when they are asked for, how they travel, and where they never show. What refusals lead to is in
../../conformance."""

import asyncio
import json
import logging
from collections.abc import Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Optional

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bugfeed_client import Bugfeed, BugfeedError
from bugfeed_client import _core as core_module
from bugfeed_client._core import Core
from bugfeed_client._token import Token, seconds_left
from tests.support import FakeNetwork
from tests.test_conformance import FakeClock

SECRET = "eyJh.eyJz_-~.c2ln"


class Server:
    """A gateway of a few words: remembers with what it was asked, and does with sessions what the test says."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Optional[str]] = asyncio.Queue()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.answer: Callable[[ServerConnection], Optional[Response]] = lambda _: None
        self.end: tuple[int, str] = (1000, "")
        self.may_end = asyncio.Event()
        self.hello: dict[str, Any] = {}

    def request(self, connection: ServerConnection, request: Request) -> Optional[Response]:
        assert SECRET not in request.path
        assert "Sec-WebSocket-Protocol" not in request.headers
        self.asked.put_nowait(request.headers.get("Authorization"))
        return self.answer(connection)

    async def session(self, connection: ServerConnection) -> None:
        async def talk() -> None:
            async for text in connection:
                message = json.loads(text)
                self.heard.put_nowait(message)
                if message["command"] == "hello":
                    reply = {"command": "hello", "result": "ok", "heartbeat": 30, "cursor": "E.1", **self.hello}
                else:
                    reply = {"command": "subscribe", "result": "ok", "count": 1, "cursor": "E.1"}
                await connection.send(json.dumps(reply))

        talking, ending = asyncio.ensure_future(talk()), asyncio.ensure_future(self.may_end.wait())
        await asyncio.wait((talking, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        await connection.close(*self.end)
        with suppress(ConnectionClosed):
            await talking


@asynccontextmanager
async def serving() -> Any:
    server = Server()
    async with serve(server.session, "127.0.0.1", 0, process_request=server.request, compression=None) as listening:
        try:
            yield server, f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        finally:
            server.may_end.set()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def at_once(feed: Bugfeed) -> None:
    """The next attempt, without waiting for it."""
    assert feed.state == "waiting"
    feed._running.start()


async def until(feed: Bugfeed, state: str) -> None:
    while feed.state != state:
        await asyncio.sleep(0.005)


def test_the_header_is_of_each_attempt_and_leaves_other_headers_alone() -> None:
    async def test() -> None:
        tokens = iter(["T.1", "T.2", "T.3"])

        async def token() -> str:
            await asyncio.sleep(0)
            return next(tokens)

        connect = {"additional_headers": [("X-Other", "kept"), ("authorization", "Basic eDp5")]}
        async with serving() as (server, url):
            server.answer = lambda connection: connection.respond(503, "")
            async with Bugfeed(url, token=token, connect=connect) as feed:
                await until(feed, "waiting")
                at_once(feed)
                await until(feed, "waiting")
                server.answer = lambda _: None
                at_once(feed)
                await until(feed, "open")
            async with Bugfeed(url, token="T.9\n") as feed:
                await until(feed, "open")
            async with Bugfeed(url, token="") as feed:
                await until(feed, "open")
            tokens_seen = [server.asked.get_nowait() for _ in range(5)]
            assert tokens_seen == ["Bearer T.1", "Bearer T.2", "Bearer T.3", "Bearer T.9", None]

    run(test)


def test_a_function_that_fails_or_gives_no_token_is_a_connection_that_failed() -> None:
    async def test() -> None:
        states: list[str] = []

        def fails() -> str:
            raise RuntimeError("the login is\naway")

        async def gives_nothing() -> Any:
            return None

        for token, told in (
            (fails, "no token: the login is away; trying again in"),
            (gives_nothing, "no token: not a token: it is letters, digits, and - . _ ~; trying"),
            (lambda: f"{SECRET} {SECRET}", "no token: not a token: it is letters"),
        ):
            troubles: list[BugfeedError] = []
            async with serving() as (server, url):
                feed = Bugfeed(url, token=token, on_state=lambda _, why: states.append(why), on_trouble=troubles.append)
                async with feed:
                    for _ in range(3):
                        await until(feed, "waiting")
                        assert states[-1].startswith(told)
                        at_once(feed)
                    await until(feed, "waiting")
                    assert server.asked.empty(), "no connection without a token"
                    assert len(troubles) == 1 and "3 times in a row" in str(troubles[0])
                    assert SECRET not in f"{states} {troubles}"

    run(test)


def test_a_feed_that_is_left_while_a_token_is_asked_for_makes_no_connection() -> None:
    async def test() -> None:
        asked = asyncio.Event()

        async def never() -> str:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        async with serving() as (server, url):
            async with Bugfeed(url, token=never) as feed:
                await asked.wait()
                assert feed.state == "connecting"
            assert server.asked.empty()

    run(test)


@pytest.mark.parametrize("token", ["a b", f"{SECRET}\n{SECRET}", " ", "ü", "a,b", 7])
def test_what_no_token_can_be_is_an_error_that_does_not_show_it(token: Any) -> None:
    with pytest.raises(ValueError, match="^not a token: it is letters, digits, and - . _ ~$"):
        Bugfeed("ws://gateway.test/", token=token)


def test_another_transport_has_its_own_ways() -> None:
    with pytest.raises(ValueError, match="another transport"):
        Bugfeed("ws://gateway.test/", token="T.1", transport=FakeNetwork())


def test_a_token_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        states: list[str] = []
        async with serving() as (server, url):
            server.answer = lambda connection: connection.respond(502, f"what is {SECRET}?")
            feed = Bugfeed(url, token=SECRET, on_state=lambda state, why: states.append(f"{state} {why}"))
            async with feed:
                await until(feed, "waiting")
                assert "what is …?" in states[-1]
                server.answer = lambda _: None
                at_once(feed)
                await until(feed, "open")
                feed._running.renewed(feed._running.connection, SECRET)
                while "token" not in await server.heard.get():
                    pass
                server.end = (4403, f"{SECRET} was taken away")
                server.may_end.set()
                with pytest.raises(BugfeedError, match=r"\(4403\): … was taken away$") as raised:
                    await feed.watch([1]).__anext__()
                parts = [feed, feed._running, feed._token, feed._sockets]
                seen = f"{raised.value!r} {states} {[(repr(part), str(part), vars(part)) for part in parts[:2]]}"
                assert SECRET not in seen + f"{feed._token!r} {feed._sockets!r}"

    with caplog.at_level(logging.DEBUG):
        run(test)
    ours = [record for record in caplog.records if record.name != "websockets.server"]
    # A server that repeats it in a close frame is on its own.
    said = "\n".join(line for line in map(logging.LogRecord.getMessage, ours) if " CLOSE " not in line)
    assert "> GET / HTTP/1.1" in said, "what websockets logs was looked at"
    assert "not shown" in said
    for part in SECRET.split("."):
        assert part not in said


def test_the_error_of_a_text_says_that_it_was_refused() -> None:
    async def ending(token: str, **how: Any) -> str:
        async with serving() as (server, url):
            if "status" in how:
                headers = {"Bugfeed-Version": "0.1.0"}

                def refuse(connection: ServerConnection) -> Response:
                    response: Response = connection.respond(how["status"], '{"error":"invalid token: expired"}')
                    response.headers.update(headers)
                    return response

                server.answer = refuse
            else:
                server.end = how["end"]
                server.may_end.set()
            async with Bugfeed(url, token=token) as feed:
                with pytest.raises(BugfeedError) as raised:
                    await feed.watch([1]).__anext__()
            assert raised.value.final
            return str(raised.value).replace(url, "URL")

    async def test() -> None:
        expired = (4401, "token expired; reconnect with a new one")
        wanted = f"closed by the gateway (4401): {expired[1]}; the token was refused or has expired"
        assert await ending("T.1", end=expired) == wanted
        needed = (4401, "a token is needed")
        assert await ending("", end=needed) == "closed by the gateway (4401): a token is needed"
        assert await ending("T.1", status=401) == "URL wants another token: 401 invalid token: expired"
        assert await ending("", status=401) == "URL wants a token: 401 invalid token: expired"

    run(test)


def test_a_redirect_hands_no_token_to_another_server() -> None:
    async def test() -> None:
        def redirecting(to: str) -> Callable[[ServerConnection], Response]:
            def answer(connection: ServerConnection) -> Response:
                response: Response = connection.respond(307, "")
                response.headers["Location"] = to
                server.answer = lambda _: None
                return response

            return answer

        async with serving() as (other, elsewhere), serving() as (server, url):
            for to in (f"{url}kde/", elsewhere):
                server.answer = redirecting(to)
                async with Bugfeed(url, token="T.1", connect={"additional_headers": {"X-Other": "kept"}}) as feed:
                    await until(feed, "open")
            assert [server.asked.get_nowait() for _ in range(3)] == ["Bearer T.1"] * 3
            assert other.asked.get_nowait() is None

    run(test)


def test_before_a_token_expires_another_one_goes_into_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        tokens = iter(["T.1", "T.2"])
        asked: list[str] = []

        def token() -> str:
            asked.append(next(tokens))
            return asked[-1]

        async with serving() as (server, url):
            server.hello = {"expires": "soon"}
            states: list[str] = []
            async with Bugfeed(url, token=token, on_state=lambda state, _: states.append(state)) as feed:
                feed.subscribe(1)
                said = [await server.heard.get() for _ in range(3)]
                assert said[2] == {"command": "hello", "heartbeat": 30, "token": "T.2"}
                # The third time there is none: nothing but a word in the log, and the session goes on.
                server.hello = {}
                while feed._running.connection and feed._running.connection.asked:
                    await asyncio.sleep(0.005)
                assert states == ["connecting", "open"] and feed.state == "open"

    left = iter([0.01])
    monkeypatch.setattr(core_module, "MIN_RENEW_S", 0.001)
    monkeypatch.setattr(core_module, "seconds_left", lambda expires: next(left, None))
    run(test)


def test_a_renewal_that_fails_costs_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        states: list[str] = []
        tokens = iter(["T.1"])

        async def token() -> str:
            try:
                return next(tokens)
            except StopIteration:
                raise RuntimeError("the login is away") from None

        async with serving() as (_, url):
            async with Bugfeed(url, token=token, on_state=lambda state, _: states.append(state)) as feed:
                while "no token to renew the session with: the login is away" not in caplog.text:
                    await asyncio.sleep(0.005)
                assert states == ["connecting", "open"] and feed.state == "open"

    monkeypatch.setattr(core_module, "MIN_RENEW_S", 0.001)
    monkeypatch.setattr(core_module, "seconds_left", lambda expires: 0.01)
    run(test)


def test_a_renewal_ends_with_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        asked, ended = asyncio.Event(), asyncio.Event()
        first = iter(["T.1"])

        async def token() -> str:
            for given in first:
                return given
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        async with serving() as (_, url):
            async with Bugfeed(url, token=token):
                await asked.wait()
            await ended.wait()

    monkeypatch.setattr(core_module, "MIN_RENEW_S", 0.001)
    monkeypatch.setattr(core_module, "seconds_left", lambda expires: 0.01)
    run(test)


def expires_in(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


@pytest.mark.parametrize(
    ("seconds", "more", "is_asked", "renewed"),
    [
        (6000, "", True, True),
        (6000, ".123456789Z", True, True),
        (9, "", True, False),
        (-9, "", True, False),
        (None, "soon", True, False),
        (None, None, True, False),
        (None, 7, True, False),
        (6000, "", False, False),
    ],
)
def test_when_a_token_is_renewed(seconds: Optional[int], more: Any, is_asked: bool, renewed: bool) -> None:
    clock, network, calls = FakeClock(), FakeNetwork(), []
    expires = more if seconds is None else expires_in(seconds) + more

    def core() -> Core:
        made = Core(
            "ws://gateway.test/",
            network,
            clock,
            lambda item, cursor: None,
            heartbeat=300,
            token=Token((lambda: "T.1") if is_asked else "T.1"),
            renew=lambda: calls.append(clock.now),
            chance=lambda: 0.5,
        )
        made.start()
        network.link.listener.open()
        network.link.say(command="hello", result="ok", heartbeat=300, cursor="E.1", expires=expires)
        return made

    def advance(seconds: int) -> None:
        for _ in range(0, seconds, 100):
            clock.advance(100_000)
            network.link.heartbeat(2)

    first = core()
    advance(5200)
    assert calls == []
    advance(800)
    assert [5_300_000 < at <= 5_400_000 for at in calls] == [True] * renewed
    first.renewed(first.connection, "T.2")
    assert network.link.sent[-1] == {"command": "hello", "heartbeat": 300, "token": "T.2"}
    network.link.say(command="hello", result="ok", heartbeat=300, cursor="E.7", expires=expires)
    assert (first.state, first.head) == ("open", "E.1"), "it is the same session"
    gone = first.connection
    first.lost(1006, "")
    calls.clear()
    clock.advance(10_000_000)
    assert calls == [], "what was to be renewed is not there any more"
    first.start()
    network.link.accept()
    network.link.sent.clear()
    first.renewed(gone, "T.3")
    assert network.link.sent == []


def test_how_long_a_token_is_good_for() -> None:
    left = seconds_left(expires_in(100))
    assert left is not None and 98 < left <= 100
    assert seconds_left("2026-13-27T12:00:00") is None
