"""The fuzzing client of Autobahn|Testsuite against a running gateway: ``python2.7 fuzz.py ws://HOST:PORT/ FOLDER``

The suite exists for Python 2.7 only (``pip install autobahntestsuite==0.8.2``), which few machines have. So its cases are
also written in Rust (``tests/it/conformance``), and those run everywhere; this shows now and then that both agree.

It wants echoes, and a gateway answers text that is no command with an error. So each error reply is taken for the echo of
the text that it answers. What needs binary echoes or compression is left out. The reports come into FOLDER; each case that
did not pass is printed, and makes the exit code 1.
"""

from __future__ import print_function

import json
import os
import sys

CASES = ["1.1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.1.2", "9.7.*", "10.*"]
GOOD = ("OK", "NON-STRICT", "INFORMATIONAL")


def with_echoes(protocol):
    """A protocol that hears an echo in each error reply."""
    send, hear = protocol.sendFrame, protocol.onMessage

    def send_frame(self, opcode, payload=b"", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        # Before it is sent: the answer may come while it is.
        sent = self.__dict__.setdefault("sent", [])
        begun = self.__dict__.setdefault("begun", [])
        if opcode in (0, 1):
            # The suite repeats what it sends up to the length that is asked for.
            times = payload_len // len(payload) + 1 if payload and payload_len is not None else 1
            begun.append((payload * times)[:payload_len])
            if fin:
                sent.append(b"".join(begun))
                del begun[:]
        return send(self, opcode, payload, fin, rsv, mask, payload_len, chopsize, sync)

    def on_message(self, text, binary):
        if not binary and b'"result":"error"' in text:
            text = self.sent.pop(0)
        return hear(self, text, binary)

    protocol.sendFrame, protocol.onMessage = send_frame, on_message


def main(url, folder):
    from autobahntestsuite import fuzzing
    from twisted.internet import reactor

    with_echoes(fuzzing.FuzzingClientProtocol)
    spec = {"outdir": folder, "servers": [{"agent": "bugfeed", "url": url}], "cases": CASES}
    spec.update({"exclude-cases": [], "exclude-agent-cases": {}})
    fuzzing.startClient(spec)
    reactor.run()
    with open(os.path.join(folder, "index.json")) as index:
        cases = json.load(index)["bugfeed"]
    bad = {name: case for name, case in cases.items() if not {case["behavior"], case["behaviorClose"]} <= set(GOOD)}
    for name, case in sorted(bad.items()):
        print("%s: %s, closing %s" % (name, case["behavior"], case["behaviorClose"]))
    print("%d cases, %d did not pass" % (len(cases), len(bad)))
    return 1 if bad or len(cases) < 200 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
