"""A search indexer that hears of every change from RabbitMQ itself, without a gateway: a durable queue of its own, each
message acknowledged once it is in the database. Every change has a number, so what comes again is passed over, and what
is missing is noticed and read from the history stream. Where history does not have it either, or the ledger is a new
one, or was set back (the same numbers come with other tags), all bugs are to be indexed again.

    pip install 'pika>=1.3'
    python examples/amqp-indexer/indexer.py --amqp amqp://guest:guest@127.0.0.1/

The work list is a table: SELECT bug, version FROM document WHERE stale. Index the bug, then UPDATE document SET stale =
0 WHERE bug = ? AND version = ?, so that a change that came meanwhile is not lost. At the first start, index everything
once the program says that its queue is bound. All forms of message are understood: single changes, several in one
message (`bugfeed.batch`), and the envelope of 2014 (`bugfeed-shim --format pulse`).
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPError, ChannelClosedByBroker

#: What waits in the queue while this program is away. Beyond that the oldest go, and are found missing.
MAX_WAITING = 1_000_000
#: Clocks of the broker and of the shim may differ by this much, in seconds.
SKEW_S = 300
#: The stream may be silent for this long, in seconds.
PATIENCE_S = 10.0
MARKER = "bugfeed.marker"
MAX_NUMBER = 2**63 - 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS document (bug INTEGER PRIMARY KEY, stale INTEGER NOT NULL, version INTEGER NOT NULL);
-- Of each ledger, everything up to number `done` was taken in; when the ledger had it is what `recorded` says.
CREATE TABLE IF NOT EXISTS ledger (epoch TEXT PRIMARY KEY, done INTEGER NOT NULL, recorded INTEGER);
-- From number `first` on, a ledger's numbers have this tag. NULL: not known.
CREATE TABLE IF NOT EXISTS run (epoch TEXT NOT NULL, first INTEGER NOT NULL, tag TEXT, PRIMARY KEY (epoch, first));
"""


@dataclass
class Change:
    bug: int
    #: None where the producer gives no numbers: then nothing can be said about what is missing.
    epoch: Optional[str]
    seq: int
    #: Of which history the number is: a ledger that was set back gives its numbers out twice, with other tags.
    tag: Optional[str]
    #: When the ledger recorded it, in seconds.
    recorded: Optional[int]


def parse(body: bytes, properties: pika.BasicProperties) -> list[Change]:
    """The changes in a message. Those that cannot be read are left out, and their numbers are missing: no second
    delivery would mend that."""
    try:
        message = json.loads(body)
        if "changes" not in message:
            found = [change_of(message, properties)]
        else:
            numbered = isinstance(message.get("seq"), int)
            common = {"epoch": message.get("epoch"), "tag": message.get("tag")}
            found = []
            for place, change in enumerate(message["changes"]):
                own = change if isinstance(change, dict) else {}
                seq = message["seq"] + place if numbered else None
                found.append(change_of({**own, **common, "seq": seq}, properties))
    except (ValueError, TypeError, AttributeError, RecursionError):
        found = [None]
    if None in found:
        print(f"not a change: {body[:200]!r}", file=sys.stderr, flush=True)
    return [change for change in found if change is not None]


def change_of(message: dict[str, Any], properties: pika.BasicProperties) -> Optional[Change]:
    """The change in an object; None if it holds none."""
    try:
        if "payload" in message:
            payload, meta = message["payload"], message.get("_meta", {})
            message = {"bug": payload["id"], **{name: meta.get(name) for name in ("epoch", "seq", "tag")}}
        bug, epoch, seq = int(str(message["bug"])), message.get("epoch"), message.get("seq")
        tag = message.get("tag")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not 1 <= bug <= MAX_NUMBER:
        return None
    if not isinstance(epoch, str) or not isinstance(seq, int) or not 1 <= seq <= MAX_NUMBER:
        epoch, seq = None, 0
    return Change(bug, epoch, seq, tag if isinstance(tag, str) else None, properties.timestamp)


class Index:
    """The database. What belongs together is committed together."""

    def __init__(self, file: str) -> None:
        self.database = sqlite3.connect(file)
        self.database.executescript(SCHEMA)

    def ledger(self, epoch: Optional[str]) -> Optional[tuple[int, Optional[int]]]:
        """How far a ledger's changes were taken in, and when that was recorded."""
        row = self.database.execute("SELECT done, recorded FROM ledger WHERE epoch = ?", (epoch,)).fetchone()
        return (row[0], row[1]) if row else None

    def tag(self, change: Change) -> Optional[str]:
        """The tag that the number of this change should have, as far as that is known."""
        sql = "SELECT tag FROM run WHERE epoch = ? AND first <= ? ORDER BY first DESC LIMIT 1"
        row = self.database.execute(sql, (change.epoch, change.seq)).fetchone()
        return row[0] if row else None

    def missing_before(self, change: Change) -> range:
        """The numbers that should have come before this change and have not."""
        ledger = self.ledger(change.epoch)
        return range(ledger[0] + 1, change.seq) if ledger else range(0)

    def take(self, change: Change) -> None:
        """Marks the bug as stale and remembers the number, together."""
        ledger, tag = self.ledger(change.epoch), self.tag(change)
        is_known = ledger is not None and change.seq <= ledger[0]
        if is_known and (tag is None or change.tag is None or tag == change.tag):
            return  # It came before.
        execute = self.database.execute
        with self.database:
            if change.epoch is not None:
                if is_known:
                    execute("DELETE FROM run WHERE epoch = ? AND first >= ?", (change.epoch, change.seq))
                    self._all_stale(f"the ledger was set back to before number {change.seq}")
                elif ledger is None and execute("SELECT 1 FROM ledger").fetchone():
                    self._all_stale(f"a new ledger, {change.epoch}")
                execute("REPLACE INTO ledger VALUES (?, ?, ?)", (change.epoch, change.seq, change.recorded))
                if change.tag != tag:
                    execute("REPLACE INTO run VALUES (?, ?, ?)", (change.epoch, change.seq, change.tag))
            sql = "INSERT INTO document VALUES (?, 1, 1) ON CONFLICT DO UPDATE SET stale = 1, version = version + 1"
            execute(sql, (change.bug,))
        print(f"reindex bug {change.bug}", flush=True)

    def give_up(self, before: Change) -> None:
        """Nobody knows which bugs the missing changes were of."""
        with self.database:
            execute = self.database.execute
            # Some of these may only be late, and of whichever history.
            sql = "INSERT OR IGNORE INTO run SELECT epoch, done + 1, NULL FROM ledger WHERE epoch = ?"
            execute(sql, (before.epoch,))
            execute("UPDATE ledger SET done = ? WHERE epoch = ?", (before.seq - 1, before.epoch))
            self._all_stale(f"changes before number {before.seq} are lost")

    def _all_stale(self, why: str) -> None:
        self.database.execute("UPDATE document SET stale = 1, version = version + 1")
        print(f"{why}: reindex all bugs, also those that are not in the index", flush=True)


class Indexer:
    """One connection."""

    def __init__(self, options: argparse.Namespace, index: Index) -> None:
        self.index = index
        self.exchange, self.queue, self.idle_s = options.exchange, options.queue, options.idle
        self.history = f"{options.exchange}.history"
        self.connection: BlockingConnection = pika.BlockingConnection(options.amqp)

    def run(self) -> None:
        channel = self.connection.channel()
        bounds = {"x-max-length": MAX_WAITING, "x-overflow": "drop-head"}
        channel.queue_declare(self.queue, durable=True, arguments=bounds)
        self.bind(channel)
        channel.basic_qos(prefetch_count=200)
        print(f"queue {self.queue} is bound", flush=True)
        for method, properties, body in channel.consume(self.queue, inactivity_timeout=self.idle_s):
            if method is None:
                # An exchange that is deleted takes the binding along, and says nothing.
                self.bind(channel)
                continue
            for change in parse(body, properties):
                self.handle(change)
            # Only now: the database has all of it.
            channel.basic_ack(method.delivery_tag)

    def bind(self, channel: BlockingChannel) -> None:
        channel.exchange_declare(self.exchange, "topic", durable=True)
        channel.queue_bind(self.queue, self.exchange, "#")

    def handle(self, change: Change) -> None:
        missing = self.index.missing_before(change)
        if missing:
            print(f"numbers {missing[0]} to {missing[-1]} did not come: reading history", flush=True)
            found = self.find(change, range(missing.start - 1, missing.stop))
            if missing.start - 1 in found:
                # The one before the hole: if it is of another history now, so is all that follows.
                self.index.take(found[missing.start - 1])
            for seq in missing:
                if seq not in found:
                    # Also if it is only late, which is rarer than it is worth to wait for.
                    self.index.give_up(change)
                    break
                self.index.take(found[seq])
        self.index.take(change)

    def find(self, change: Change, missing: range) -> dict[int, Change]:
        """What history has of some numbers, by number."""
        found: dict[int, Change] = {}
        ledger = self.index.ledger(change.epoch)
        # It lies in the stream after what is known, which was recorded before it.
        recorded = ledger[1] if ledger else None
        begin = datetime.fromtimestamp(recorded - SKEW_S, timezone.utc) if recorded else "first"
        # A stream may be away for a moment after a restart of the broker.
        for attempt in range(5):
            try:
                for body, properties in self.read_history(begin):
                    for other in parse(body, properties):
                        if other.epoch == change.epoch and other.seq in missing:
                            found[other.seq] = other
                break
            except ChannelClosedByBroker as error:
                print(f"cannot read {self.history}: {error.reply_text}", file=sys.stderr, flush=True)
                self.connection.sleep(0.2 * 2**attempt)
        return found

    def read_history(self, begin: Any) -> Iterator[tuple[bytes, pika.BasicProperties]]:
        """The stream up to a marker that is published now: it has no end that one is told of."""
        channel: BlockingChannel = self.connection.channel()
        channel.queue_declare(self.history, passive=True)
        marker = f"{random.getrandbits(64):016x}"
        channel.basic_publish("", self.history, b"{}", pika.BasicProperties(type=MARKER, message_id=marker))
        channel.basic_qos(prefetch_count=500)
        arguments = {"x-stream-offset": begin}
        try:
            for method, properties, body in channel.consume(
                self.history, arguments=arguments, inactivity_timeout=PATIENCE_S
            ):
                if method is None:
                    print(f"{self.history} is silent", file=sys.stderr)
                    return
                channel.basic_ack(method.delivery_tag)
                if properties.type != MARKER:
                    yield body, properties
                elif properties.message_id == marker:
                    return
        finally:
            if channel.is_open:
                channel.close()


def address(text: str) -> pika.URLParameters:
    """Checks it here: whoever complains of it later would show the password."""
    try:
        return pika.URLParameters(text)
    except Exception:
        pass
    raise argparse.ArgumentTypeError("not an address; write amqp://USER:PASSWORD@HOST/, and in a password %23 for #")


def main() -> None:
    parser = argparse.ArgumentParser(description="Keeps the list of bugs that a search index must look at again.")
    amqp = os.environ.get("BUGFEED_AMQP", "amqp://guest:guest@127.0.0.1/")
    parser.add_argument("--amqp", type=address, default=amqp, help="RabbitMQ; or BUGFEED_AMQP")
    parser.add_argument("--exchange", default="bugfeed.default", help="the feed's (%(default)s)")
    parser.add_argument("--queue", default="bugfeed.indexer", help="a durable one of its own (%(default)s)")
    parser.add_argument("--idle", type=float, default=60, help="bind anew after so many silent seconds (%(default)s)")
    parser.add_argument("--database", default="index.db", help="an SQLite file (%(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    index = Index(options.database)
    backoff = 1.0
    try:
        while True:
            began = time.monotonic()
            try:
                Indexer(options, index).run()
            except (AMQPError, OSError) as error:
                if time.monotonic() - began > 60:
                    backoff = 1.0
                print(f"RabbitMQ: {error!r}; again in {backoff:.0f} s", file=sys.stderr, flush=True)
                time.sleep(backoff * random.uniform(0.5, 1))
                backoff = min(backoff * 2, 30.0)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
