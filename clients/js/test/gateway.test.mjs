// Against the real gateway: killed in the middle, not a change is missed.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Bugfeed } from "../bugfeed.js";
import { Gateway, binary } from "./support.mjs";

const ws = await import("ws").catch(() => null);
const options = { WebSocket: globalThis.WebSocket ?? ws?.WebSocket, heartbeat: 1 };
const missing =
  (!binary && "no gateway: set BUGFEED_BIN, or run cargo build") ||
  (!options.WebSocket && "no WebSocket: run node with --experimental-websocket, or npm ci");
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

const until = (feed, state) =>
  new Promise((resolve) => {
    if (feed.state === state) resolve();
    feed.addEventListener("state", ({ detail }) => detail.state === state && resolve(detail));
  });
const subscribed = (feed) =>
  new Promise((resolve) => feed.addEventListener("subscribed", ({ detail }) => resolve(detail), { once: true }));

test("against the real gateway", { skip: missing, timeout: 120_000 }, async (context) => {
  let gateway;
  before(async () => (gateway = await Gateway.start()));
  after(() => gateway?.end());

  await context.test(
    "changes, kill -9, changes while away, and a restart of the client: none missed, none twice",
    async () => {
      const store = new Map();
      const storage = { getItem: (key) => store.get(key) ?? null, setItem: (key, value) => store.set(key, value) };
      const bugs = [1, 2, 3];
      const make = () => new Bugfeed(gateway.url, { ...options, bugs, storage, key: "test" });
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
      assert.deepEqual([feed.protocol, feed.state], ["modern", "open"]);

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

  await context.test("a gateway that is stopped says when to come back", async () => {
    const feed = new Bugfeed(gateway.url, { ...options, bugs: [1] });
    await subscribed(feed);
    const waiting = until(feed, "waiting");
    await gateway.stop();
    assert.match((await waiting).reason, /restarts/);
    const back = subscribed(feed);
    await gateway.start();
    assert.equal((await back).replay, "complete");
    feed.close();
  });

  await context.test("a fresh start from the head misses nothing", async () => {
    const feed = new Bugfeed(gateway.url, options);
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

  await context.test("a subscription that is refused", async () => {
    const bugs = Array.from({ length: 10_001 }, (_, index) => index + 1);
    const feed = new Bugfeed(gateway.url, { ...options, bugs });
    await assert.rejects(feed[Symbol.asyncIterator]().next(), /too many subscriptions/);
    assert.deepEqual([feed.state, feed.bugs], ["open", []]);
    feed.close();
  });

  await context.test(
    "no such feed: final, where the status can be seen",
    { skip: !ws && "ws is not installed" },
    async () => {
      const feed = new Bugfeed(`${gateway.url}nonsense/`, { WebSocket: ws.WebSocket });
      await assert.rejects(feed[Symbol.asyncIterator]().next(), { status: 404, final: true });
      assert.equal(feed.state, "closed");
    },
  );
});
