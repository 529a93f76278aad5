// Loops (`for await`): what is stored when, what waits for a slow reader, and what becomes of a wait that is given up.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { BugfeedError } from "../bugfeed.js";
// The module that the client loads when it has reason to: how long that takes is not the clock's affair.
import "../client-queue.js";
import { links, memory, open } from "./links.mjs";
import { Clock, settled } from "./support.mjs";

let clock;
beforeEach(() => {
  clock = new Clock();
  links.length = 0;
});
afterEach(() => clock.remove());

test("while a loop reads, a cursor is stored when the loop asks for the next event, not before", async () => {
  const storage = memory();
  const { feed, link } = await open({ storage, key: "bot" });
  assert.equal(storage.values.get("bot"), "E.1");
  const reader = feed[Symbol.asyncIterator]();
  const first = reader.next();
  link.update(1, 5);
  link.say({ command: "heartbeat", cursor: "E.6" });
  link.update(2, 7);
  assert.deepEqual((await first).value, { type: "change", bug: 1, bugs: [1], when: "2014-04-03T21:13:45" });
  link.say({ command: "heartbeat", cursor: "E.8" });
  assert.equal(storage.values.get("bot"), "E.1", "bug 1 is being dealt with");
  assert.equal(feed.cursor, "E.8", "a reconnect need not ask again");
  assert.equal((await reader.next()).value.bug, 2);
  assert.equal(storage.values.get("bot"), "E.6", "bug 2 is being dealt with");
  const third = reader.next();
  await settled();
  assert.equal(storage.values.get("bot"), "E.8");
  link.say({ command: "gap", cursor: "E.9" });
  assert.deepEqual((await third).value, { type: "gap", bugs: [1, 2, 3] });
  feed.close();
  assert.deepEqual(await reader.next(), { value: undefined, done: true });
  // What was in hand when the feed was closed comes again.
  assert.equal(storage.values.get("bot"), "E.9");
});

test("a loop that is left stores nothing of what it did not finish", async () => {
  const storage = memory();
  const { feed, link } = await open({ storage, key: "bot" });
  setImmediate(() => (link.update(1, 5), link.update(2, 6)));
  for await (const { bug } of feed) {
    assert.equal(bug, 1);
    break;
  }
  feed.close();
  assert.equal(storage.values.get("bot"), "E.1");
});

test("a slow reader gets the newest change of each bug, in order, and one gap for all", async () => {
  const { feed, link } = await open();
  const reader = feed[Symbol.asyncIterator]();
  const first = reader.next();
  for (let seq = 2; seq <= 10_008; seq++) {
    link.update(seq % 2 ? 1 : 3, seq);
    if (seq % 50 === 0 && seq <= 100) link.say({ command: "gap", cursor: `E.${seq}` });
    if (seq === 150) link.say({ command: "heartbeat", cursor: "E.150" });
  }
  link.update(2, 20_000);
  const seen = [(await first).value];
  while (seen.at(-1).bug !== 2) seen.push((await reader.next()).value);
  assert.deepEqual(seen.map(({ type, bug }) => bug ?? type).slice(0, 3), ["gap", 3, 1]);
  assert.ok(seen.length < 10, `${seen.length} events`);
  feed.close();
});

test("a loop ends when the feed is closed, whatever waits", async () => {
  const { feed, link } = await open();
  const seen = [];
  setImmediate(() => (link.update(1, 5), link.update(2, 6)));
  for await (const { bug } of feed) {
    seen.push(bug);
    feed.close();
  }
  assert.deepEqual(seen, [1]);
});

test("two loops cannot share a feed", async () => {
  const { feed } = await open();
  feed[Symbol.asyncIterator]().next();
  await assert.rejects(feed[Symbol.asyncIterator]().next(), BugfeedError);
  feed.close();
});

test("a loop throws what ends the feed, after what came before", async () => {
  const { feed, link } = await open();
  const seen = [];
  setImmediate(() => (link.update(1, 5), link.on.close({ code: 1009, reason: "message too big" })));
  await assert.rejects(
    async () => {
      for await (const { bug } of feed) seen.push(bug);
    },
    { name: "BugfeedError", code: 1009, final: true, message: /message too big/ },
  );
  assert.deepEqual(seen, [1]);
});

test("a loop throws when a subscription is refused; the feed goes on", async () => {
  const { feed, link } = await open();
  const next = feed[Symbol.asyncIterator]().next();
  feed.subscribe(4);
  await settled();
  link.say({ command: "subscribe", result: "error", error: "too many subscriptions" });
  await assert.rejects(next, { message: /too many subscriptions/, bugs: [4], final: false });
  assert.equal(feed.state, "open");
  // It was not the one that resumed, so the next one does not either.
  feed.subscribe(5);
  await settled();
  assert.deepEqual(JSON.parse(JSON.stringify(link.sent.at(-1))), { command: "subscribe", bugs: [5] });
  feed.close();
});


test("a wait that is given up takes nothing with it: the next one gets what came", async () => {
  const storage = memory();
  const { feed, link } = await open({ storage, key: "bot" });
  const reader = feed[Symbol.asyncIterator]();
  // As with Promise.race and a timeout, again and again.
  const waits = [reader.next(), reader.next(), reader.next()];
  await settled();
  link.update(1, 5);
  link.update(2, 6);
  const answers = await Promise.all([...waits, reader.next()]);
  assert.deepEqual(answers.map(({ value }) => value.bug), [1, 1, 1, 1]);
  assert.equal(storage.values.get("bot"), "E.1", "bug 1 is being dealt with");
  assert.equal((await reader.next()).value.bug, 2);
  assert.equal(storage.values.get("bot"), "E.5");
  feed.close();
});

test("a loop can be left while it waits, at once; the subscription goes on, and another loop gets what came", async () => {
  const storage = memory();
  const { feed, link } = await open({ storage, key: "bot" });
  const left = feed[Symbol.asyncIterator]();
  const waiting = left.next();
  await settled();
  assert.deepEqual(await left.return(), { value: undefined, done: true });
  assert.deepEqual(await waiting, { value: undefined, done: true });
  link.update(1, 5);
  link.say({ command: "heartbeat", cursor: "E.6" });
  await settled();
  assert.deepEqual([feed.state, storage.values.get("bot")], ["open", "E.1"], "nobody has dealt with bug 1");
  const reader = feed[Symbol.asyncIterator]();
  assert.equal((await reader.next()).value.bug, 1);
  reader.next();
  await settled();
  assert.equal(storage.values.get("bot"), "E.6");
  feed.close();
});

test("what came while a loop was left waits for the next one, with what the first had not asked for", async () => {
  const storage = memory();
  const { feed, link } = await open({ storage, key: "bot" });
  setImmediate(() => (link.update(1, 5), link.update(2, 6)));
  for await (const { bug } of feed) {
    assert.equal(bug, 1);
    break;
  }
  link.update(3, 7);
  link.say({ command: "heartbeat", cursor: "E.8" });
  await settled();
  assert.equal(storage.values.get("bot"), "E.1");
  const seen = [];
  for await (const { bug } of feed) if (seen.push(bug) === 2) break;
  assert.deepEqual(seen, [2, 3]);
  assert.equal(storage.values.get("bot"), "E.6");
  feed.close();
});

test("a loop that a refused subscription ended is followed by another", async () => {
  const { feed, link } = await open();
  const reader = feed[Symbol.asyncIterator]();
  const next = reader.next();
  feed.subscribe(4);
  await settled();
  link.say({ command: "subscribe", result: "error", error: "too many subscriptions" });
  link.update(1, 5);
  await assert.rejects(next, /too many/);
  for await (const { bug } of feed) {
    assert.equal(bug, 1);
    break;
  }
  feed.close();
});

test("a proxy's answers, however many, end no loop", async () => {
  const { feed, link } = await open();
  const errors = [];
  feed.addEventListener("error", ({ detail }) => errors.push([detail.status, detail.final]));
  const next = feed[Symbol.asyncIterator]().next();
  link.on.close({ code: 1006 });
  for (let attempt = 0; attempt < 5; attempt++) {
    feed.reconnect();
    links.at(-1).on.close({ status: 404, reason: "HTTP status 404" });
  }
  feed.reconnect();
  links.at(-1).on.open();
  links.at(-1).say({ command: "hello", result: "ok", heartbeat: 30, cursor: "E.1" });
  links.at(-1).update(2, 9);
  assert.equal((await next).value.bug, 2);
  assert.deepEqual(errors, [[404, false]]);
  feed.close();
});
