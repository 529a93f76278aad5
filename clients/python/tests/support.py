"""A network without a network, and the real gateway."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from bugfeed_client import Listener

ROOT = Path(__file__).parents[3]


def binary() -> Optional[str]:
    """The gateway's binary: $BUGFEED_TEST_BIN, or what cargo built."""
    built = (ROOT / "target" / profile / "bugfeed" for profile in ("release", "debug"))
    return os.environ.get("BUGFEED_TEST_BIN") or next((str(path) for path in built if path.exists()), None)


class FakeLink:
    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.sent: list[Mapping[str, Any]] = []
        self.ended = False

    def send(self, command: Mapping[str, Any]) -> None:
        self.sent.append(command)

    def close(self) -> None:
        self.ended = True

    def say(self, **message: Any) -> None:
        self.listener.message(json.dumps(message))

    def update(self, bug: int, seq: int) -> None:
        self.say(command="update", bug=bug, when="2014-04-03T21:13:45", cursor=f"E.{seq}")

    def heartbeat(self, seq: int) -> None:
        self.say(command="heartbeat", cursor=f"E.{seq}")

    def accept(self) -> None:
        self.listener.open()
        self.say(command="hello", result="ok", heartbeat=30, cursor="E.1")


class FakeNetwork:
    """A transport that remembers its links."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []

    def __call__(self, url: str, listener: Listener) -> FakeLink:
        self.links.append(FakeLink(listener))
        return self.links[-1]

    @property
    def link(self) -> FakeLink:
        return self.links[-1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Gateway:
    """The real gateway with a change table of its own, on free ports."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        self.binary, self.directory, self.options = binary, directory, options
        self.port, self.admin = _free_port(), _free_port()
        self.url = f"ws://127.0.0.1:{self.port}/"
        self.process: Optional[subprocess.Popen[bytes]] = None

    def start(self) -> None:
        listen = ["--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin}"]
        command = [self.binary, "serve", "--data-dir", str(self.directory), *listen, *self.options]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 30
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError((self.directory / "log").read_text())
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5):
                return True
        except OSError:
            return False

    def touch(self, *bugs: int) -> None:
        """Commits a change of each bug, as the tracker would."""
        source = f"sqlite://{self.directory}/bugfeed.db"
        subprocess.run([self.binary, "touch", *map(str, bugs), "--source", source], check=True, capture_output=True)

    def token(self, name: str, *options: str) -> tuple[str, str]:
        """A new token, and its entry for the file of ``--tokens``."""
        command = [self.binary, "token", "new", "--name", name, *options]
        made = subprocess.run(command, check=True, capture_output=True, text=True)
        return made.stdout.strip(), made.stderr

    def kill(self) -> None:
        """``kill -9``."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        assert self.process
        self.process.terminate()
        self.process.wait(30)
        self.process = None
