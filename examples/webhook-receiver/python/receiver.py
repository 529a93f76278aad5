"""Receives bugfeed's webhooks: a bot to start from. It answers once it has a change on the disk, and does the work
after that; so it may be killed at any moment, and misses nothing.

    pip install 'standardwebhooks>=1.1,<2'
    BUGFEED_SECRET=whsec_… python receiver.py

In the environment: BUGFEED_SECRET (while it is being replaced: the new one and the old one, with a blank between them),
LISTEN (127.0.0.1:9000) and STATE (receiver.db, a SQLite file). With HOOKS (http://127.0.0.1:8844/) and ENDPOINT (ep_…)
it asks at the start for what it missed, and says that it is ready.
"""

import base64
import json
import os
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Optional

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SECRETS = os.environ.get("BUGFEED_SECRET", "").split()
LISTEN = os.environ.get("LISTEN", "127.0.0.1:9000")
STATE = os.environ.get("STATE", "receiver.db")
HOOKS = os.environ.get("HOOKS", "").rstrip("/")
ENDPOINT = os.environ.get("ENDPOINT", "")

#: bugfeed sends at most 20 kB.
LONGEST_BODY = 64 * 1024
#: So many of the last changes are known again; a request has at most some 200.
REMEMBERED = 2000
#: Work that failed is done again after so many seconds.
AGAIN_S = 5

TABLES = """
    CREATE TABLE IF NOT EXISTS place (feed TEXT PRIMARY KEY, cursor TEXT NOT NULL);
    -- The changes that were taken. Those that came late share a cursor, so the date belongs to what tells them apart.
    CREATE TABLE IF NOT EXISTS known (
        number INTEGER PRIMARY KEY, feed TEXT, bug INTEGER, changed TEXT, cursor TEXT,
        UNIQUE (feed, bug, changed, cursor));
    -- bug 0: changes may be missing. Of a bug, only the newest change is left.
    CREATE TABLE IF NOT EXISTS todo (
        number INTEGER PRIMARY KEY AUTOINCREMENT, feed TEXT, bug INTEGER, changed TEXT, UNIQUE (feed, bug));
"""

#: Set when there is work.
news = threading.Event()


def look(feed: str, bug: int, changed: str) -> None:
    """The work: replace it by yours. It is called at least once for each change, and again where it raises."""
    if bug:
        say(f"look at bug {bug} of {feed}, changed at {changed}")
    else:
        say(f"changes of {feed} may be missing: look at all its bugs")


def say(text: str) -> None:
    print(text, flush=True)


def open_state() -> sqlite3.Connection:
    """Each thread has a connection of its own. SQLite's own setting is to be durable at each commit."""
    state = sqlite3.connect(STATE, timeout=10)
    state.executescript(TABLES)
    return state


def take(message: dict[str, Any]) -> None:
    """Takes what a request says. When this returns, it is on the disk."""
    command, feed, cursor = message["command"], message["feed"], message["cursor"]
    if command not in ("update", "updates", "gap"):
        return  # A test, or something that is newer than this program.
    changes = [message] if command == "update" else message.get("changes", [])
    add = "INSERT OR REPLACE INTO todo (feed, bug, changed) VALUES (?, ?, ?)"
    state = open_state()
    try:
        with state:  # One transaction.
            if command == "gap":
                state.execute(add, (feed, 0, ""))
            for change in changes:
                # A request may come twice, and a change in two requests.
                known = state.execute(
                    "INSERT OR IGNORE INTO known (feed, bug, changed, cursor) VALUES (?, ?, ?, ?)",
                    (feed, change["bug"], change["when"], change.get("cursor")),
                )
                if known.rowcount:
                    state.execute(add, (feed, change["bug"], change["when"]))
            state.execute("DELETE FROM known WHERE number <= (SELECT max(number) FROM known) - ?", (REMEMBERED,))
            state.execute("INSERT OR REPLACE INTO place VALUES (?, ?)", (feed, cursor))
    finally:
        state.close()
    news.set()


def work() -> None:
    """Does the work, one thing after the other."""
    state = open_state()
    while True:
        news.clear()
        item = state.execute("SELECT number, feed, bug, changed FROM todo ORDER BY number LIMIT 1").fetchone()
        if item is None:
            news.wait()
            continue
        number, feed, bug, changed = item
        try:
            look(feed, bug, changed)
            # A newer change of the bug, which came meanwhile, has another number, and stays.
            with state:
                state.execute("DELETE FROM todo WHERE number = ?", (number,))
        except Exception as error:
            print(f"{error}; again in {AGAIN_S} s", file=sys.stderr, flush=True)
            time.sleep(AGAIN_S)


def verified(body: bytes, headers: dict[str, str]) -> Optional[dict[str, Any]]:
    """What a request says, if its signature fits one of the secrets and it is not older than five minutes."""
    for secret in SECRETS:
        try:
            return Webhook(secret).verify(body, headers)
        except (WebhookVerificationError, ValueError):
            pass  # The other secret may fit. (A ValueError: what should be Base64 or text is none.)
    return None


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST_BODY:
            self.close_connection = True
            return self.answer(413, "too long")
        body = self.rfile.read(length)
        message = verified(body, {name.lower(): value for name, value in self.headers.items()})
        if message is None:
            return self.answer(401, "the signature does not fit, or is too old")
        say(f"received {message['command']}")
        try:
            take(message)
        except sqlite3.Error as error:
            print(f"cannot store: {error}", file=sys.stderr, flush=True)
            return self.answer(503, "cannot be stored just now")  # It comes again.
        self.answer(204)

    def answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        if text:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing of each request."""


def call(method: str, path: str) -> bytes:
    """Asks bugfeed, signed by the endpoint's secret."""
    number, now = f"call_{uuid.uuid4()}", datetime.now(tz=timezone.utc)
    # The body, which is empty, follows the dot.
    signature = Webhook(SECRETS[0]).sign(number, now, f"{method} {path}.")
    headers = {
        "webhook-id": number,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    request = urllib.request.Request(HOOKS + path, None, headers, method=method)
    with urllib.request.urlopen(request, timeout=15) as answer:
        return answer.read()


def missed(feed: str, cursor: str) -> None:
    """Takes what came of a feed while this program was away."""
    more = True
    while more:
        query = urllib.parse.urlencode({"feed": feed, "cursor": cursor})
        answer = json.loads(call("GET", f"/endpoints/{ENDPOINT}/changes?{query}"))
        take({**answer, "command": "gap" if answer.get("replay") == "gap" else "updates", "feed": feed})
        cursor, more = answer["cursor"], answer.get("more", False)


def catch_up() -> None:
    """Asks for what was missed, and has deliveries that wait begin again. If not, bugfeed's own attempts go on."""
    state = open_state()
    places = state.execute("SELECT feed, cursor FROM place").fetchall()
    state.close()
    for feed, cursor in places:
        attempt(missed, feed, cursor)
    if attempt(call, "POST", f"/endpoints/{ENDPOINT}/ready"):
        say("said that this is ready")


def attempt(what: Callable[..., object], *args: str) -> bool:
    """Whether it was done; says why not."""
    try:
        what(*args)
        return True
    except urllib.error.HTTPError as error:
        print(f"{error.code} {error.read(200).decode(errors='replace')}", file=sys.stderr, flush=True)
    except (OSError, ValueError, KeyError) as error:
        print(f"{HOOKS}: {error}", file=sys.stderr, flush=True)
    return False


def is_secret(text: str) -> bool:
    try:
        return text.startswith("whsec_") and bool(base64.b64decode(text[len("whsec_") :], validate=True))
    except ValueError:
        return False


def main() -> None:
    if not SECRETS or not all(map(is_secret, SECRETS)):
        sys.exit("set BUGFEED_SECRET to the endpoint's secret, as `bugfeed endpoints create` printed it: whsec_...")
    host, port = LISTEN.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Receiver)
    threading.Thread(target=work, daemon=True).start()
    say(f"listens on {LISTEN}")
    if HOOKS and ENDPOINT:
        threading.Thread(target=catch_up, daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
