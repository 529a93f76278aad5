// What comes while nobody listens waits until somebody does, and no stored cursor passes it.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Bugfeed } from "../bugfeed.js";
import { Queue } from "../client-queue.js";
import { links, memory, open, transport } from "./links.mjs";
import { Clock, settled } from "./support.mjs";

let clock;
let storage;
beforeEach(() => {
  clock = new Clock();
  clock.rounds = 2;
  links.length = 0;
  storage = memory();
});
afterEach(() => clock.remove());

const stored = () => storage.values.get("page");
const start = (options) => open({ storage, key: "page", ...options });

/** What a listener hears, in order. */
const listen = (feed, seen = [], ...types) => {
  for (const type of types.length ? types : ["change", "gap"])
    feed.addEventListener(type, ({ detail }) => seen.push(detail.bug ?? detail.type));
  return seen;
};

test("listeners that come later hear what came before, and it is stored then", async () => {
  const { feed, link } = await start();
  link.update(1, 5);
  link.say({ command: "gap", cursor: "E.6" });
  link.update(2, 7);
  link.say({ command: "heartbeat", cursor: "E.8" });
  await settled();
  assert.deepEqual([stored(), feed.cursor], ["E.1", "E.8"]);
  const seen = listen(feed);
  assert.deepEqual(seen, [], "not before there was time to add the others");
  await settled();
  assert.deepEqual([seen, stored()], [[1, "gap", 2], "E.8"]);
  link.update(3, 9);
  assert.deepEqual([seen.at(-1), stored()], [3, "E.9"]);
  feed.close();
});

test("a loop that begins later hears what came before; who dies before that gets it again", async () => {
  for (const isDead of [true, false]) {
    storage = memory();
    const { feed, link } = await start();
    link.update(1, 5);
    link.say({ command: "heartbeat", cursor: "E.6" });
    await settled();
    assert.equal(stored(), "E.1");
    if (isDead) {
      feed.close();
      const again = new Bugfeed("ws://gateway.test/", { bugs: [1, 2, 3], transport, storage, key: "page" });
      await settled();
      links.at(-1).on.open();
      assert.equal(links.at(-1).sent.at(-1).cursor, "E.1");
      again.close();
    } else {
      const reader = feed[Symbol.asyncIterator]();
      assert.equal((await reader.next()).value.bug, 1);
      reader.next();
      await settled();
      assert.equal(stored(), "E.6");
      feed.close();
    }
  }
});

test("when the last listener goes, by whatever way, events wait for the next", async () => {
  const ends = new AbortController();
  const hear = () => {};
  const ways = {
    removed: [(feed) => feed.addEventListener("change", hear), (feed) => feed.removeEventListener("change", hear)],
    captured: [
      (feed) => feed.addEventListener("change", hear, { capture: true }),
      (feed) => feed.removeEventListener("change", hear, { capture: true }),
    ],
    aborted: [(feed) => feed.addEventListener("change", hear, ends), () => ends.abort()],
    once: [(feed, link) => (feed.addEventListener("change", hear, { once: true }), link.update(3, 4)), () => {}],
    object: [
      (feed) => feed.addEventListener("change", (ways.handler = { handleEvent() {} })),
      (feed) => feed.removeEventListener("change", ways.handler),
    ],
  };
  for (const name of ["removed", "captured", "aborted", "once", "object"]) {
    const [add, remove] = ways[name];
    storage = memory();
    const { feed, link } = await start();
    add(feed, link);
    remove(feed);
    link.update(1, 5);
    link.say({ command: "heartbeat", cursor: "E.6" });
    await settled();
    assert.equal(stored(), name === "once" ? "E.4" : "E.1", name);
    const seen = listen(feed);
    await settled();
    assert.deepEqual([seen, stored()], [[1], "E.6"], name);
    feed.close();
  }
});

test("of several listeners, one that stays is enough, and each hears an event once", async () => {
  const { feed, link } = await start();
  const seen = [];
  const first = ({ detail }) => seen.push(["first", detail.bug]);
  const second = ({ detail }) => seen.push(["second", detail.bug]);
  // Twice the same is one.
  for (const listener of [first, second, second]) feed.addEventListener("change", listener);
  link.update(1, 5);
  feed.removeEventListener("change", first);
  link.update(2, 6);
  assert.deepEqual(seen, [["first", 1], ["second", 1], ["second", 2]]);
  assert.equal(stored(), "E.6");
  feed.removeEventListener("change", second);
  link.update(3, 7);
  await settled();
  assert.equal(stored(), "E.6");
  feed.close();
});

test("one event for each listener that listens once: a chain of them misses none", async () => {
  const { feed, link } = await start();
  const next = () => new Promise((resolve) => feed.addEventListener("change", ({ detail }) => resolve(detail.bug), { once: true }));
  const first = next();
  for (const bug of [1, 2, 3]) link.update(bug, 4 + bug);
  assert.equal(await first, 1);
  assert.equal(stored(), "E.5");
  await settled();
  assert.equal(await next(), 2);
  assert.equal(stored(), "E.6");
  assert.equal(await next(), 3);
  assert.equal(stored(), "E.7");
  feed.close();
});

test("who listens for changes alone has chosen: a gap holds nothing up", async () => {
  const { feed, link } = await start();
  const seen = listen(feed, [], "change");
  link.say({ command: "gap", cursor: "E.5" });
  link.update(1, 6);
  await settled();
  assert.deepEqual([seen, stored()], [[1], "E.6"]);
  feed.close();
});

test("an error waits for somebody too, and takes nothing along that others wait for", async () => {
  const { feed, link } = await start();
  link.update(1, 5);
  feed.subscribe(4);
  await settled();
  link.say({ command: "subscribe", result: "error", error: "too many subscriptions" });
  await settled();
  const seen = listen(feed, [], "error");
  await settled();
  assert.deepEqual([seen, stored()], [["error"], "E.1"]);
  listen(feed, seen);
  await settled();
  assert.deepEqual([seen, stored()], [["error", 1], "E.5"]);
  feed.close();
});

test("what waits is bounded: of each bug the newest change, and one gap", async () => {
  const { feed, link } = await start();
  link.say({ command: "gap", cursor: "E.2" });
  for (let seq = 3; seq <= 25_000; seq++) link.update(1 + (seq % 2), seq);
  link.say({ command: "gap", cursor: "E.25001" });
  link.update(3, 30_000);
  await settled();
  assert.equal(stored(), "E.1");
  const seen = listen(feed);
  await settled();
  assert.ok(seen.length < 12_000, `${seen.length} events`);
  assert.deepEqual([seen[0], seen.at(-1), stored()], ["gap", 3, "E.30000"]);
  feed.close();
});

test("a feed that was closed tells nothing of what waited", async () => {
  const { feed, link } = await start();
  link.update(1, 5);
  feed.close();
  const seen = listen(feed);
  await settled();
  assert.deepEqual([seen, stored()], [[], "E.1"]);
  assert.deepEqual(await feed[Symbol.asyncIterator]().next(), { value: undefined, done: true });
});

test("what failed tells its end to a loop that begins later, after what came before", async () => {
  const { feed, link } = await start();
  link.update(1, 5);
  link.on.close({ code: 1009, reason: "message too big" });
  await settled();
  const seen = [];
  await assert.rejects(
    async () => {
      for await (const { bug } of feed) seen.push(bug);
    },
    { code: 1009, final: true },
  );
  assert.deepEqual(seen, [1]);
});

test("a gap that is told later does not pass what a loop has in hand, nor is it passed", async () => {
  const { feed, link } = await start();
  const reader = feed[Symbol.asyncIterator]();
  const first = reader.next();
  link.update(1, 5);
  assert.equal((await first).value.bug, 1);
  link.say({ command: "gap", cursor: "E.6", spread_ms: 20_000 });
  link.update(2, 7);
  await clock.advance(10_000);
  assert.equal(stored(), "E.1", "bug 1 is being dealt with");
  assert.equal((await reader.next()).value.type, "gap");
  assert.equal(stored(), "E.1", "and now the gap");
  assert.equal((await reader.next()).value.bug, 2);
  assert.equal(stored(), "E.6");
  reader.next();
  await settled();
  assert.equal(stored(), "E.7");
  feed.close();
});

test("a gap that is told later waits for a listener like any other", async () => {
  const { feed, link } = await start();
  link.say({ command: "gap", cursor: "E.6", spread_ms: 20_000 });
  link.say({ command: "heartbeat", cursor: "E.7" });
  await clock.advance(10_000);
  assert.equal(stored(), "E.1");
  const seen = listen(feed);
  await settled();
  assert.deepEqual([seen, stored()], [["gap"], "E.7"]);
  feed.close();
});

test("nothing is told out of turn while the module is loaded", async () => {
  // As a page that loads it over a slow network: calls are kept and carried out in order.
  const done = [];
  const feed = Object.assign(new EventTarget(), { bugs: [1], state: "open" });
  const calls = [(queue) => queue.push(() => done.push("third")), () => done.push("first"), () => done.push("second")];
  const queue = new Queue(calls, feed, () => true, () => {}, Error);
  queue.push(() => done.push("fourth, or before the third"));
  assert.deepEqual(done, []);
  await settled();
  queue.push(() => done.push("last"));
  assert.deepEqual(done, ["first", "second", "fourth, or before the third", "third", "last"]);
});
