"""What is made of answers that are no feed, and of none at all: who says "never", and what people are told."""

import asyncio
import logging
import ssl
import subprocess
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from bugfeed_client import Bugfeed, BugfeedError
from bugfeed_client._words import first_line, shown
from tests.support import FakeNetwork

#: Set where a proxy is to be used; none of them may be in the environment of the other tests.
VARIABLES = ("ws_proxy", "wss_proxy", "socks_proxy", "https_proxy", "http_proxy", "all_proxy", "no_proxy")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def answering(answer: str, body: str = "", seen: Optional[list[bytes]] = None) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            head = error.partial
        if seen is not None:
            seen.append(head)
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    return handle


def first_attempt(handle: Handler, url: str = "ws://127.0.0.1:PORT/", **options: Any) -> str:
    """What is told of the first attempt; raises what ends the feed."""

    async def run() -> str:
        waiting: asyncio.Queue[str] = asyncio.Queue()

        def on_state(state: str, reason: str) -> None:
            if state in ("waiting", "closed"):
                waiting.put_nowait(reason)

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=options.pop("server_ssl", None))
        port = str(server.sockets[0].getsockname()[1])
        async with server, Bugfeed(url.replace("PORT", port), on_state=on_state, connect=options) as feed:
            reason = await asyncio.wait_for(waiting.get(), 30)
            if feed.state == "closed":
                await feed.watch([1]).__anext__()
            return reason.replace(port, "PORT")

    return asyncio.run(run())


NGINX = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n"


@pytest.mark.parametrize(
    ("answer", "body", "told"),
    [
        ("404 Not Found", NGINX, "ws://127.0.0.1:PORT/ answers 404 Not Found; trying"),
        ("404 Not Found", "404 page not found\n\nmore\n", "answers 404 page not found; trying"),
        (
            "404 Not Found",
            '{"timestamp":1,"status":404,"error":"Not Found","path":"/"}',
            "answers 404 Not Found; trying",
        ),
        ("403 Forbidden", "", "answers 403 Forbidden; trying"),
        ("401 Unauthorized", "<p>Who are you?</p>", "answers 401 Who are you?; trying"),
        ("407 Proxy Authentication Required", "", "answers 407 Proxy Authentication Required; trying"),
        ("426 Upgrade Required", "\x1b[2Jboo", "answers 426 [2Jboo; trying"),
        ("400 Bad Request", "x" * 9999, f"answers 400 {'x' * 200}…; trying"),
        ("502 Bad Gateway", "", "answers 502 Bad Gateway; trying"),
        ("200 OK", "<title>\n Our wiki </title>", "answers 200 Our wiki; trying"),
        (
            "301 Moved\r\nLocation: https://example.org/feed/?key=secret",
            "",
            "301 Moved, which leads to https://example.org/feed/?…;",
        ),
        (
            "308 Moved\r\nLocation: http://u:secret@example.org/",
            "",
            "308 Moved, which leads to http://…@example.org/; trying",
        ),
        ("302 Found", "", "answers 302 Found; trying"),
    ],
)
def test_what_is_not_the_gateways_word_means_later(answer: str, body: str, told: str) -> None:
    assert told in first_attempt(answering(answer, body))


def test_the_gateways_own_word_is_final() -> None:
    gateway = answering("404 Not Found\r\nBugfeed-Version: 0.1.0", '{"error":"There is no feed here."}')
    with pytest.raises(BugfeedError, match="is no feed: 404 There is no feed here") as raised:
        first_attempt(gateway, "ws://user:secret@127.0.0.1:PORT/x/?token=secret")
    assert raised.value.final and raised.value.status == 404
    assert "secret" not in str(raised.value)
    assert "answers 503 not ready" in first_attempt(
        answering("503 Unavailable\r\nBugfeed-Version: 0.1.0", '{"error":"not ready yet"}')
    )


def test_three_answers_alike_are_told_and_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        network = FakeNetwork()
        troubles: list[BugfeedError] = []
        url = "wss://user:secret@gateway.test/?token=secret"
        async with Bugfeed(url, transport=network, on_trouble=troubles.append) as feed:
            reader = asyncio.ensure_future(feed.watch([1]).__anext__())
            for _ in range(4):
                network.link.listener.close(status=404, reason="page not found")
                assert feed.state == "waiting"
                feed._running.start()  # Without waiting for it.
            await asyncio.sleep(0)
            assert not reader.done() and feed.state == "connecting"
            [trouble] = troubles
            assert not trouble.final and trouble.status == 404
            assert str(trouble) == (
                "wss://…@gateway.test/?… answers 404 page not found, 3 times in a row; is the address right, "
                "and does the proxy in front of the gateway pass its path on?; this client goes on trying"
            )
            network.link.accept()
            network.link.update(1, 5)
            assert (await reader).bugs == (1,)

    with caplog.at_level(logging.INFO, "bugfeed_client"):
        asyncio.run(run())
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "secret" not in caplog.text


def test_other_faults_are_told_after_three_too() -> None:
    async def run() -> None:
        network = FakeNetwork()
        troubles: list[BugfeedError] = []
        async with Bugfeed("wss://gateway.test/", transport=network, on_trouble=troubles.append) as feed:
            for fault in ("dns", "tls", "tls", "tls", "tls", ""):
                network.link.listener.close(reason="no TLS here", fault=fault)
                feed._running.start()
            assert [str(trouble) for trouble in troubles] == [
                "no TLS here, 3 times in a row; this client goes on trying"
            ]

    asyncio.run(run())


def test_a_redirect_within_websocket_is_followed() -> None:
    seen: list[bytes] = []
    redirect = answering("301 Moved\r\nLocation: /there/", "", seen)
    assert "more than" in first_attempt(redirect) or "301" in first_attempt(redirect)
    assert seen[0].startswith(b"GET / ") and seen[1].startswith(b"GET /there/ ")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder: Path = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    try:
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    return context


def test_tls_where_there_is_none_and_the_other_way_round(certificate: ssl.SSLContext) -> None:
    async def impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    plain = first_attempt(impatient, "wss://127.0.0.1:PORT/")
    assert plain.startswith("wss://127.0.0.1:PORT/ answers without TLS; for a gateway without TLS write ws://"), plain
    tls = first_attempt(answering("200 OK"), "ws://127.0.0.1:PORT/", server_ssl=certificate)
    assert tls.startswith("ws://127.0.0.1:PORT/ does not answer as a web server does; if it wants TLS, write wss://"), (
        tls
    )
    untrusted = first_attempt(answering("200 OK"), "wss://localhost:PORT/", server_ssl=certificate)
    assert untrusted.startswith("wss://localhost:PORT/ has a certificate that is not trusted here: self"), untrusted


def test_names_that_are_not_known_and_ports_where_nobody_is() -> None:
    async def unused(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None: ...

    unknown = first_attempt(unused, "ws://user:secret@no-such-host.invalid:PORT/")
    assert unknown.startswith("the name no-such-host.invalid cannot be resolved: "), unknown
    refused = first_attempt(unused, "ws://user:secret@127.0.0.1:1/")
    assert refused.startswith("cannot connect to ws://…@127.0.0.1:1/: ") and "proxy" not in refused, refused


def test_proxies_of_the_environment_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unused(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None: ...

    monkeypatch.setenv("all_proxy", "http://user:secret@127.0.0.1:1")
    away = "ws://no-such-host.invalid/"
    assert "(all_proxy is set; not used here)" in first_attempt(unused, away)
    assert "proxy" not in first_attempt(unused, "ws://127.0.0.1:1/"), "nobody would use it"
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:1")
    through = first_attempt(unused, "ws://127.0.0.1:PORT/")
    assert "(through the proxy that HTTPS_PROXY names)" in through and "secret" not in through, through
    assert "(HTTPS_PROXY and all_proxy is set; not used here)" in first_attempt(unused, away, proxy=None)
    monkeypatch.setenv("HTTPS_PROXY", "ftp://user:secret@127.0.0.1:1")
    wrong = first_attempt(unused, "ws://127.0.0.1:PORT/")
    assert wrong.startswith("cannot connect to ws://127.0.0.1:PORT/ through the proxy that HTTPS_PROXY names;"), wrong
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:secret@127.0.0.1:1")
    socks = first_attempt(unused, "ws://127.0.0.1:PORT/")
    assert "through the proxy that HTTPS_PROXY names" in socks and "secret" not in socks, socks
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "answers 502" in first_attempt(answering("502 Bad Gateway"))


def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> str:
        proxy = await asyncio.start_server(answering("407 Proxy Authentication Required"), "127.0.0.1", 0)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        told: asyncio.Queue[str] = asyncio.Queue()

        def on_state(state: str, reason: str) -> None:
            if state == "waiting":
                told.put_nowait(reason)

        async with proxy, Bugfeed("ws://gateway.example/", on_state=on_state):
            return await asyncio.wait_for(told.get(), 30)

    reason = asyncio.run(run())
    assert "answers 407 Proxy Authentication Required, says the proxy that http_proxy names;" in reason


@pytest.mark.parametrize(
    ("url", "want"),
    [
        ("ws://127.0.0.1:8844/kde/", "ws://127.0.0.1:8844/kde/"),
        ("wss://user:pw@host/feed/?token=t#f", "wss://…@host/feed/?…"),
        ("wss://user:p@w@host/", "wss://…@host/"),
        ("ws://u:p/w?x@host:1/", "ws://…@host:1/"),
        ("guest:pw@host", "…@host"),
        ("mysql:/u:pw@h/db", "…@h/db"),
        ("host/?token=t", "host/?…"),
        ("ws://host/#1234", "ws://host/"),
        ("ws://ho\x1bst\n/", "ws://ho st /"),
        ("a://b://u:p@h/", "a://b://…@h/"),
        ("", ""),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, want: str) -> None:
    assert shown(url) == want


def test_wrong_addresses_are_refused_without_their_secrets() -> None:
    for url in (
        "guest:secret@host",
        "ftp://u:secret@host/",
        "ws:/u:secret@h/",
        "ws://u:secret@host:99999999/",
        "//u:secret@[x",
    ):
        with pytest.raises(ValueError, match="not a gateway's address") as raised:
            Bugfeed(url)
        assert "secret" not in str(raised.value) and raised.value.__context__ is None


def test_the_first_line_of_whatever_comes() -> None:
    assert first_line(b"") == first_line(b"<html>\n\n</html>") == first_line(b"\xff\xfe"[:0]) == ""
    assert first_line(b"\n\n  a \t b \r\n c") == "a b"
    assert first_line(b'{"error":7}') == '{"error":7}'
    assert first_line(b"[" * 100_000).startswith("[[[")
    assert first_line("<title></title><h1>Größe\u202e</h1>".encode()) == "Größe"
