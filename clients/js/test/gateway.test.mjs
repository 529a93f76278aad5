// Against the real gateway: killed in the middle, not a change is missed.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Bugfeed } from "../bugfeed.js";
import { eventStream, longPoll } from "../client-fallback.js";
import { files } from "../files.js";
import { Proxy } from "./proxy.mjs";
import { Gateway, binary } from "./support.mjs";

const ws = await import("ws").catch(() => null);
const options = { WebSocket: globalThis.WebSocket ?? ws?.WebSocket, heartbeat: 1 };
const missing =
  (!binary && "no gateway: set BUGFEED_TEST_BIN, or run cargo build") ||
  (!options.WebSocket && "no WebSocket: run node with --experimental-websocket, or npm ci");
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

const ways = {
  websocket: options,
  sse: { transport: eventStream(), heartbeat: 1 },
  "long-poll": { transport: longPoll(), heartbeat: 1 },
};

const until = (feed, state) =>
  new Promise((resolve) => {
    if (feed.state === state) resolve();
    feed.addEventListener("state", ({ detail }) => detail.state === state && resolve(detail));
  });
const subscribed = (feed) =>
  new Promise((resolve) => feed.addEventListener("subscribed", ({ detail }) => resolve(detail), { once: true }));

const feeds = [];
const open = (...how) => {
  const feed = new Bugfeed(...how);
  feeds.push(feed);
  return feed;
};

const eventually = async (holds) => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20));
};

test("against the real gateway", { skip: missing, timeout: 300_000 }, async (context) => {
  let gateway;
  before(async () => (gateway = await Gateway.start()));
  after(() => gateway?.end());
  // Also when a test fails: a feed goes on for ever.
  context.afterEach(() => feeds.splice(0).forEach((feed) => feed.close()));

  for (const [name, way] of Object.entries(ways))
    await context.test(
      `${name}: changes, kill -9, changes while away, and a restart of the client: none missed, none twice`,
      async () => {
        const store = new Map();
        const storage = { getItem: (key) => store.get(key) ?? null, setItem: (key, value) => store.set(key, value) };
        const bugs = [1, 2, 3];
        const make = () => open(gateway.url, { ...way, bugs, storage, key: "test" });
        const seen = [];
        const read = async (feed, count) => {
          for (; count > 0; count--) seen.push((await feed.next()).value.bug);
        };

        let feed = make();
        let reader = feed[Symbol.asyncIterator]();
        const first = reader.next();
        assert.equal((await subscribed(feed)).replay, null);
        gateway.touch(1, 2, 9);
        seen.push((await first).value.bug);
        await read(reader, 1);
        assert.deepEqual([feed.protocol, feed.state, feed.transport], ["modern", "open", name]);

        await gateway.stop("SIGKILL");
        await until(feed, "waiting");
        gateway.touch(3, 1); // In the table, where the shim finds them.
        const resumed = subscribed(feed);
        await gateway.start();
        assert.equal((await resumed).replay, "complete");
        gateway.touch(2);
        await read(reader, 3);

        // The change in hand when a bot dies comes again: it had not asked for the next one.
        feed.close();
        gateway.touch(3);
        feed = make();
        reader = feed[Symbol.asyncIterator]();
        await read(reader, 2);
        feed.unsubscribe(1, 2);
        gateway.touch(1, 3);
        await read(reader, 1);
        feed.close();
        assert.deepEqual(seen, [1, 2, 3, 1, 2, 2, 3, 3]);
      },
    );

  for (const [name, way] of Object.entries(ways))
    await context.test(`${name}: a gateway that is stopped says when to come back`, async () => {
      const feed = open(gateway.url, { ...way, bugs: [1] });
      await subscribed(feed);
      const waiting = until(feed, "waiting");
      await gateway.stop();
      // Between two polls nothing can be said; one that just begins is refused.
      assert.match((await waiting).reason, name === "long-poll" ? /goes away|going away|failed/ : /restarts|ended/);
      const back = subscribed(feed);
      await gateway.start();
      assert.equal((await back).replay, "complete");
      feed.close();
    });

  for (const [name, way] of Object.entries(ways))
    await context.test(`${name}: a fresh start from the head misses nothing`, async () => {
      const feed = open(gateway.url, way);
      await until(feed, "open");
      feed.cursor = feed.head;
      gateway.touch(77); // While the tracker is asked which bugs there are.
      feed.subscribe(77);
      for await (const { bug } of feed) {
        assert.equal(bug, 77);
        break;
      }
      feed.close();
    });

  for (const [name, way] of Object.entries(ways))
    await context.test(`${name}: from a date on, then by cursor: all that changed since, none twice, no gap`, async () => {
      const seen = [];
      const listen = (cursor) => {
        const feed = open(gateway.url, { ...way, bugs: [81, 82], cursor });
        for (const type of ["change", "gap", "error"])
          feed.addEventListener(type, ({ detail }) => seen.push(detail.when ?? type));
        return feed;
      };
      // One for each way, so that what is asked for is there.
      const at = (second) => `2031-01-0${Object.keys(ways).indexOf(name) + 1}T00:00:0${second}`;
      const touch = (bug, second) => gateway.touch(bug, "--when", at(second));
      // The gateway must have them first: what it hears of later is sent whatever its date.
      const witness = open(gateway.url, { ...way, bugs: [82] });
      let heard = 0;
      witness.addEventListener("change", () => heard++);
      await subscribed(witness);
      for (const second of [1, 2, 3]) touch(82, second);
      await eventually(() => heard === 3);
      witness.close();
      const watcher = listen(`since:${at(2)}`);
      assert.deepEqual(await subscribed(watcher), { bugs: [81, 82], replay: null });
      touch(81, 4);
      await eventually(() => seen.length >= 3);
      assert.deepEqual(seen, [at(2), at(3), at(4)]);
      assert.match(watcher.cursor, /^\w+\.\d+(\.[0-9a-f]+)?$/);

      await gateway.stop("SIGKILL");
      await until(watcher, "waiting");
      touch(82, 5);
      const resumed = subscribed(watcher);
      await gateway.start();
      assert.equal((await resumed).replay, "complete");
      await eventually(() => seen.length >= 4);
      watcher.close();
      assert.deepEqual(seen, [at(2), at(3), at(4), at(5)]);
    });

  await context.test("a date that is none is refused, and says what one looks like", async () => {
    const feed = open(gateway.url, { ...options, bugs: [1], cursor: "since:yesterday" });
    await assert.rejects(feed[Symbol.asyncIterator]().next(), /subscribe refused: invalid since.*2014-04-03T21:13:45/);
  });

  for (const [name, way] of Object.entries(ways))
    await context.test(`${name}: a cursor in a file; when it is damaged, a gap, and then it is whole again`, async () => {
      const key = join(gateway.dir, `${name}.cursor`);
      const start = () => open(gateway.url, { ...way, bugs: [91, 92], storage: files, key });
      let feed = start();
      await subscribed(feed);
      const first = feed[Symbol.asyncIterator]().next();
      gateway.touch(91);
      await first;
      feed.close(); // Before it is dealt with.
      for (const [content, replay, type] of [
        [null, "complete", "change"],
        ["", "gap", "gap"],
        ["\0".repeat(20), "gap", "gap"],
      ]) {
        if (content !== null) writeFileSync(key, content);
        feed = start();
        const reader = feed[Symbol.asyncIterator]();
        const next = reader.next();
        assert.equal((await subscribed(feed)).replay, replay);
        assert.equal((await next).value.type, type);
        reader.next();
        await eventually(() => readFileSync(key, "utf8") === feed.cursor);
        feed.close();
      }
    });

  for (const [name, way] of Object.entries(ways))
    await context.test(`${name}: a subscription that is refused`, async () => {
      const bugs = Array.from({ length: 10_001 }, (_, index) => index + 1);
      const feed = open(gateway.url, { ...way, bugs });
      await assert.rejects(feed[Symbol.asyncIterator]().next(), /too many subscriptions/);
      await until(feed, "open");
      assert.deepEqual(feed.bugs, []);
      feed.subscribe(bugs.slice(1));
      assert.equal((await subscribed(feed)).bugs.length, 10_000);
      gateway.touch(10_000);
      for await (const { bug } of feed) {
        assert.equal(bug, 10_000);
        break;
      }
      feed.close();
    });

  for (const [name, way] of Object.entries(ways))
    await context.test(`${name}: subscribing while others change: none missed, none twice`, async () => {
      const feed = open(gateway.url, { ...way, bugs: [500] });
      await subscribed(feed);
      const seen = [];
      feed.addEventListener("change", ({ detail }) => seen.push(detail.bug));
      const expected = [];
      for (let bug = 501; bug <= 510; bug++) {
        const touched = gateway.touchMeanwhile(500, bug - 1);
        expected.push(500, bug - 1);
        feed.subscribe(bug);
        await subscribed(feed);
        await touched;
      }
      gateway.touch(510);
      expected.push(510);
      await eventually(() => seen.at(-1) === 510);
      const sorted = (bugs) => bugs.toSorted((a, b) => a - b);
      assert.deepEqual(sorted(seen), sorted(expected));
      feed.close();
    });

  for (const [refuse, keep] of [[400], [502], ["strip"], ["close"], ["close", true]])
    await context.test(`a proxy: ${refuse}${keep ? ", and it keeps answers" : ""}`, async (context) => {
      const proxy = await Proxy.start(gateway.port, { refuse, keep });
      context.after(() => proxy.close());
      // Where the status can be seen if possible: it is not final here.
      const feed = open(proxy.url, { ...options, bugs: [1], WebSocket: ws?.WebSocket ?? options.WebSocket });
      assert.equal((await subscribed(feed)).replay, null);
      assert.equal(feed.transport, keep ? "long-poll" : "sse");
      const reader = feed[Symbol.asyncIterator]();
      const first = reader.next();
      gateway.touch(1);
      assert.equal((await first).value.bug, 1);
      const began = ["websocket", "websocket", "/sse", ...(keep ? ["/changes"] : [])];
      assert.deepEqual(proxy.seen.slice(0, began.length), began);
    });

  await context.test(
    "no such feed: final, where the status can be seen",
    { skip: !ws && "ws is not installed" },
    async () => {
      const feed = open(`${gateway.url}nonsense/`, { WebSocket: ws.WebSocket });
      await assert.rejects(feed[Symbol.asyncIterator]().next(), { status: 404, final: true });
      assert.equal(feed.state, "closed");
    },
  );
});
