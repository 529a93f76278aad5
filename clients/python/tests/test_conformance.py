"""The scripted conversations of ../../conformance, with a clock and a transport of their own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Optional, Union

import pytest

from bugfeed_client import BugfeedError, Change, Event, Gap, Listener
from bugfeed_client._core import Core
from bugfeed_client._token import Token

CASES = Path(__file__).parents[2] / "conformance" / "cases"


class FakeTimer:
    def __init__(self, at: float, then: Callable[[], Any]) -> None:
        self.at, self.then, self.cancelled = at, then, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Counts milliseconds, so that nothing is rounded."""

    def __init__(self) -> None:
        self.now = 0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now / 1000

    def call_later(self, delay: float, callback: Callable[[], Any]) -> FakeTimer:
        timer = FakeTimer(self.now + round(delay * 1000), callback)
        self.timers.append(timer)
        return timer

    def advance(self, ms: int) -> None:
        until = self.now + ms
        while True:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            due = min((timer for timer in self.timers if timer.at <= until), key=lambda timer: timer.at, default=None)
            if due is None:
                break
            self.timers.remove(due)
            self.now = int(due.at)
            due.then()
        self.now = until


def given(token: Token) -> str:
    """The token, from a function that gives it at once."""
    try:
        token.get().send(None)
    except StopIteration as answer:
        return str(answer.value)
    raise AssertionError("it is not given at once")


class FakeLink:
    def __init__(self, listener: Listener, token: Optional[str]) -> None:
        self.listener = listener
        self.token = token
        self.sent: list[Any] = []
        self.ended = False

    def send(self, command: Mapping[str, Any]) -> None:
        self.sent.append(json.loads(json.dumps(command)))

    def close(self) -> None:
        self.ended = True


class Script:
    ACTS = ("send", "send_text", "close", "drop", "client", "advance_ms", "waits_ms")

    def __init__(self, client: Mapping[str, Any]) -> None:
        self.client = client
        self.clock = FakeClock()
        self.begun: list[FakeLink] = []
        self.link: Optional[FakeLink] = None
        self.events: list[dict[str, Any]] = []
        self.stored: Optional[str] = client.get("cursor")
        self.tokens: list[str] = list(client.get("tokens", []))
        self.start()

    def start(self) -> None:
        def ask() -> str:
            return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]

        source = ask if self.tokens else self.client.get("token")
        token = Token(source) if source else None

        def transport(_url: str, listener: Listener) -> FakeLink:
            self.begun.append(FakeLink(listener, given(token) if token else None))
            return self.begun[-1]

        def deliver(item: Union[Event, BugfeedError, None], cursor: Optional[str]) -> None:
            if core is not self.core:
                return
            if isinstance(item, Change):
                self.events.append({"change": item.bug, "when": item.when})
            elif isinstance(item, Gap):
                self.events.append({"gap": "all" if item.all else list(item.bugs)})
            elif isinstance(item, BugfeedError):
                self.events.append({"error": {**vars(item), "bugs": list(item.bugs)}})
            self.stored = cursor or self.stored

        def note(event: dict[str, Any]) -> None:
            if core is self.core:
                self.events.append(event)

        chance = float(self.client.get("random", 0.5))
        core = self.core = Core(
            "ws://gateway.test/",
            transport,
            self.clock,
            deliver,
            bugs=[] if self.client.get("bugs") == "all" else self.client.get("bugs", []),
            cursor=self.stored,
            heartbeat=self.client.get("heartbeat", 30),
            token=token,
            chance=lambda: chance,
            fed=lambda state, _since: note({"feed": state}),
            troubled=lambda error: note({"error": {**vars(error), "bugs": []}}),
        )
        core.all = self.client.get("bugs") == "all"
        core.start()

    def quiet(self) -> None:
        """Nothing may have happened that the script does not speak of."""
        assert not self.begun, "the client has connected"
        assert not (self.link and self.link.sent), f"the client has sent {self.link and self.link.sent}"
        assert not (self.link and self.link.ended), "the client has ended the connection"

    def begin(self, step: Mapping[str, Any]) -> FakeLink:
        assert self.begun, "the client has not connected"
        self.link = self.begun.pop(0)
        assert self.link.token == step.get("token"), "the connection's token"
        return self.link

    def end(self, **why: Any) -> None:
        assert self.link
        link, self.link = self.link, None
        link.listener.close(**why)

    def step(self, step: dict[str, Any]) -> None:
        name, argument = next(iter(step.items()))
        if name in self.ACTS:
            self.quiet()
        getattr(self, f"do_{name}")(argument, step)

    def do_accept(self, _: Any, step: dict[str, Any]) -> None:
        self.begin(step).listener.open()

    def do_ignore(self, _: Any, step: dict[str, Any]) -> None:
        self.begin(step)

    def do_refuse(self, status: Optional[int], step: dict[str, Any]) -> None:
        self.begin(step)
        self.end(status=status, reason="refused", gateway=step.get("gateway", False))

    def do_receive(self, message: dict[str, Any], _: Any) -> None:
        assert self.link and self.link.sent, "the client has sent nothing"
        sent = self.link.sent.pop(0)
        if isinstance(sent.get("bugs"), list):
            sent["bugs"].sort()
        assert sent == message

    def do_send(self, message: dict[str, Any], _: Any) -> None:
        self.do_send_text(json.dumps(message), None)

    def do_send_text(self, text: str, _: Any) -> None:
        assert self.link
        self.link.listener.message(text)

    def do_close(self, code: int, step: dict[str, Any]) -> None:
        self.end(code=code, reason=step.get("reason", ""))

    def do_drop(self, _: Any, __: Any) -> None:
        self.end(code=1006)

    def do_abandoned(self, _: Any, __: Any) -> None:
        assert self.link and self.link.ended, "the client has not ended the connection"
        # Whatever comes now must not count.
        update = {"command": "update", "bug": 1234, "when": "2014-04-03T21:13:45", "cursor": "too.1"}
        self.link.listener.message(json.dumps(update))
        self.end(code=1006)

    def do_client(self, action: dict[str, Any], _: Any) -> None:
        name, argument = next(iter(action.items()))
        if name == "start_from_head":
            self.core.cursor = self.core.head
        elif name == "close":
            self.core.close()
        else:
            getattr(self.core, name)(argument)

    def do_advance_ms(self, ms: int, _: Any) -> None:
        self.clock.advance(ms)

    def do_waits_ms(self, ms: int, _: Any) -> None:
        assert self.core.state == "waiting"
        self.clock.advance(ms - 1)
        self.quiet()
        self.clock.advance(1)
        assert len(self.begun) == 1, "the client has not connected"

    def do_events(self, expected: list[dict[str, Any]], _: Any) -> None:
        got, self.events = self.events, []
        for event, wanted in zip(got, expected):
            # Of an error, the members named are compared; its text is the client's own.
            if "error" in event and "error" in wanted:
                event["error"] = {name: event["error"][name] for name in wanted["error"]}
        assert got == expected

    def do_expect(self, about: dict[str, Any], _: Any) -> None:
        core = self.core
        known = {"cursor": self.stored, "bugs": "all" if core.all else sorted(core.bugs), "feed": core.feed_state}
        assert {name: known[name] if name in known else getattr(core, name) for name in about} == about

    def do_restart(self, _: Any, __: Any) -> None:
        old, self.link = self.core, None
        self.start()
        old.close()


def cases() -> list[tuple[str, dict[str, Any]]]:
    return [(path.stem, json.loads(path.read_text("utf-8"))) for path in sorted(CASES.glob("*.json"))]


@pytest.mark.parametrize("case", [case for _, case in cases()], ids=[name for name, _ in cases()])
def test_conversation(case: dict[str, Any]) -> None:
    script = Script(case["client"])
    for index, step in enumerate(case["steps"]):
        try:
            script.step(step)
        except Exception as error:
            raise AssertionError(f"{case['why']}\nstep {index + 1}, {json.dumps(step)}: {error}") from error
    assert script.events == [], "events that the script does not speak of"


def test_there_are_conversations() -> None:
    assert len(cases()) > 60
