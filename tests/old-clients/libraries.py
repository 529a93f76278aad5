"""Old Python WebSocket libraries, unmodified, against the real gateway, as old Python clients used them.

Each is installed from PyPI into a folder of its own below the one named on the command line, and used by a process of
its own (this file again, with ``--client``), so that no two of them meet.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBRARIES = {
    "websocket-client-0.18.0": ("websocket_client", ["websocket-client==0.18.0", "six==1.16.0"]),
    "websocket-client-0.32.0": ("websocket_client", ["websocket-client==0.32.0", "six==1.16.0"]),
    "websocket-client-0.44.0": ("websocket_client", ["websocket-client==0.44.0", "six==1.16.0"]),
    "websocket-client-0.44.0, app": ("websocket_app", ["websocket-client==0.44.0", "six==1.16.0"]),
    "ws4py-0.3.4": ("ws4py", ["ws4py==0.3.4"]),
    "ws4py-0.4.2": ("ws4py", ["ws4py==0.4.2"]),
}
BUGS = list(range(1_000_000, 1_010_000))
COMMANDS = [
    {"command": "version"},
    {"command": "subscribe", "bugs": [1234, 5678]},
    {"command": "subscribe", "bugs": "1", "since": ""},
    {"command": "unsubscribe", "bugs": 5678},
    {"command": "subscribe", "bugs": BUGS[:-2]},
    {"command": "nonsense"},
]
REPLIES = [
    {"command": "version", "result": "ok"},
    {"command": "subscribe", "result": "ok", "bugs": [1234, 5678]},
    {"command": "subscribe", "result": "ok", "bugs": [1, 1234, 5678]},
    {"command": "unsubscribe", "result": "ok", "bugs": [1, 1234]},
    {"command": "subscribe", "result": "ok", "bugs": [1, 1234, *BUGS[:-2]]},
    {"command": "nonsense", "result": "error", "error": "invalid command"},
]


def websocket_client(url, say):
    import websocket

    socket = websocket.create_connection(url)
    for command in COMMANDS:
        socket.send(json.dumps(command))
        say(socket.recv())
    say(socket.recv())
    socket.close()


def websocket_app(url, say):
    import websocket

    def opened(app):
        for command in COMMANDS:
            app.send(json.dumps(command))

    def received(app, text):
        say(text)
        if json.loads(text)["command"] == "update":
            app.close()

    websocket.WebSocketApp(url, on_open=opened, on_message=received).run_forever()


def ws4py(url, say):
    from ws4py.client.threadedclient import WebSocketClient

    class Client(WebSocketClient):
        def opened(self):
            for command in COMMANDS:
                self.send(json.dumps(command))

        def received_message(self, message):
            say(str(message))
            if json.loads(str(message))["command"] == "update":
                self.close()

    client = Client(url)
    client.connect()
    client.run_forever()


def check(name, use, folder, gateway):
    environment = dict(os.environ, PYTHONPATH=str(folder), PYTHONWARNINGS="ignore")
    command = [sys.executable, __file__, "--client", use, gateway.url]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as client:
        try:
            lines = [json.loads(client.stdout.readline()) for _ in REPLIES]
            assert lines[0].pop("version")
            assert lines == REPLIES, lines
            # Longer than a client may be silent that answers no pings.
            time.sleep(2)
            gateway.touch(1)
            update = json.loads(client.stdout.readline())
            assert (update["command"], update["bug"]) == ("update", 1), update
            assert client.wait(20) == 0, name
        finally:
            client.kill()
    print(f"{name}: ok", flush=True)


def main(root):
    sys.path.insert(0, str(Path(__file__).parents[2] / "clients" / "python"))
    from tests.support import Gateway, binary

    found = binary()
    assert found, "no gateway: set BUGFEED_TEST_BIN, or run cargo build"
    os.environ.update(BUGFEED_PING_INTERVAL_MS="100", BUGFEED_IDLE_TIMEOUT_MS="1000")
    with tempfile.TemporaryDirectory() as directory:
        gateway = Gateway(found, Path(directory))
        gateway.start()
        try:
            for name, (use, packages) in LIBRARIES.items():
                folder = root / packages[0].replace("==", "-")
                if not folder.exists():
                    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
                    part = folder.with_suffix(".part")
                    subprocess.run([*pip, "--target", str(part), *packages], check=True)
                    part.rename(folder)
                check(name, use, folder, gateway)
        finally:
            gateway.stop()


if __name__ == "__main__":
    if sys.argv[1] == "--client":
        globals()[sys.argv[2]](sys.argv[3], lambda text: print(text, flush=True))
    else:
        main(Path(sys.argv[1]))
