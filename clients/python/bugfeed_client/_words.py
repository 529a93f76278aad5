"""What people are told of an attempt that failed. Addresses are shown without the passwords and tokens in them."""

import json
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any, Optional
from urllib.parse import urlsplit

#: No more of what a server says is shown, in characters.
MAX_SHOWN = 200


def shown(url: str) -> str:
    """An address without what may be secret in it, whatever its shape: the part before an ``@``, and the query."""
    scheme, mark, rest = url.strip().rpartition("://")
    before, at, rest = rest.rpartition("@")
    rest, query, _ = rest.partition("?")
    return plain(f"{scheme}{mark}{'…' if before else ''}{at}{rest.partition('#')[0]}{'?…' if query else ''}")


def plain(text: str) -> str:
    """One line of it, without what would move a terminal's cursor, and not too long."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def first_line(body: bytes) -> str:
    """What the body of an answer says: the error in the gateway's JSON, a page's title, or its first line."""
    text = body[:100_000].decode("utf-8", "replace").strip()
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if isinstance(message, dict) and isinstance(message.get("error"), str):
        return plain(message["error"])
    title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
    if title and title[1].strip():
        return plain(title[1])
    lines = re.sub(r"<[^>]*>", "", text).split("\n")
    return plain(next((line for line in lines if line.strip()), ""))


def advice(status: Optional[int]) -> str:
    """What an answer that is not the gateway's may mean, and what to do."""
    if status is None:
        return ""
    if status == 407:
        return "a proxy wants a login"
    if status in (401, 403):
        return "what stands in front of the gateway lets nobody in without a login, or not from here"
    if status in (400, 426):
        return "does the proxy in front of the gateway pass WebSocket on (Upgrade, Connection)?"
    if status == 404:
        return "is the address right, and does the proxy in front of the gateway pass its path on?"
    if 300 <= status < 400:
        return "write the address that it leads to"
    if status < 300:
        return "that is a page, and no feed: is the address right?"
    return "the proxy in front does not reach the gateway, or the gateway is not ready"


def without_answer(error: BaseException, url: str) -> tuple[str, str]:
    """Why there was no answer, for people, and in a word."""
    where, secure = shown(url), url.startswith("wss")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{where} has a certificate that is not trusted here: {plain(error.verify_message)}", "tls"
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
            return f"{where} answers without TLS; for a gateway without TLS write ws://", "tls"
        return f"no TLS connection to {where}: {plain(error.reason or str(error))}", "tls"
    if isinstance(error, socket.gaierror):
        host = urlsplit(url).hostname or where
        return f"the name {plain(host)} cannot be resolved: {plain(error.strerror or str(error))}", "dns"
    if isinstance(error, EOFError) or type(error).__name__ == "InvalidMessage":
        tls = "" if secure else "; if it wants TLS, write wss://"
        return f"{where} does not answer as a web server does{tls}", "http"
    return f"cannot connect to {where}: {plain(str(error)) or type(error).__name__}", ""


def proxy_used(url: str, options: Mapping[str, Any]) -> Optional[str]:
    """The variable of the environment that names the proxy which ``websockets`` goes through, if it does."""
    parts = urlsplit(url)
    if options.get("proxy", True) is not True or options.get("sock") or options.get("unix"):
        return None
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    if urllib.request.proxy_bypass(f"{parts.hostname}:{port}"):
        return None
    names = ("wss", "socks", "https") if parts.scheme == "wss" else ("ws", "socks", "https", "http")
    proxies = urllib.request.getproxies()
    name = next((name for name in names if name in proxies), None)
    return variable(f"{name}_proxy") or "the system's settings" if name else None


def proxy_unused(url: str) -> str:
    """Those variables that name a proxy, for where none is used although others would use it to get there."""
    host = urlsplit(url).hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return ""
    set_ = [variable(name) for name in ("https_proxy", "http_proxy", "all_proxy")]
    return " and ".join(name for name in set_ if name)


def variable(name: str) -> Optional[str]:
    """As it is spelt in the environment, if it is set there."""
    return next((spelt for spelt in (name, name.upper()) if os.environ.get(spelt)), None)
