// Pages that share a connection, with locks, channels, a connection and a network of the test's own.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Bugfeed } from "../bugfeed.js";
import "../client-queue.js";
import { shared } from "../client-shared.js";
import { Http } from "./http.mjs";
import { Channel, Locks, freeze, openChannels, thaw } from "./pages.mjs";
import { Clock, settled } from "./support.mjs";

const own = ["navigator", "BroadcastChannel", "document"].map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
const define = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
let clock;
let feeds;
let streams;
beforeEach(() => {
  clock = new Clock();
  clock.rounds = 6;
  feeds = [];
  streams = [];
  define("navigator", { locks: new Locks() });
  define("BroadcastChannel", Channel);
  define("document", Object.assign(new EventTarget(), { hidden: false }));
});
afterEach(async () => {
  for (const feed of feeds) feed.close();
  await settled(6);
  assert.equal(openChannels(), 0, "channels are left behind");
  for (const [name, descriptor] of own)
    descriptor ? Object.defineProperty(globalThis, name, descriptor) : delete globalThis[name];
  clock.remove();
});

const flow = () => settled(8);
const when = "2014-04-03T21:13:45";

/** The connection that is shared. */
const upstream = (url, on) => {
  const stream = { url, sent: [], ended: false, on };
  stream.say = (message) => on.message(JSON.stringify(message));
  stream.hello = () => stream.say({ command: "hello", result: "ok", heartbeat: 10, cursor: "E.9" });
  stream.covers = () => stream.say({ command: "subscribe", result: "ok", count: 1, cursor: "E.9" });
  stream.update = (bug) => stream.say({ command: "update", bug, when, cursor: "E.10" });
  stream.asked = () => stream.sent.splice(0).map(({ command, bugs }) => (bugs ? `${command} ${bugs}` : command));
  streams.push(stream);
  return {
    name: "sse",
    send: (command) => stream.sent.push(command),
    close: () => (stream.ended = true),
  };
};

/** A page that watches these bugs, with what it was told. */
const page = async (bugs, options) => {
  const http = new Http();
  const transport = shared("sse", upstream, http.fetch);
  const feed = new Bugfeed("ws://gateway.test/", { bugs, transport, ...options });
  feeds.push(feed);
  const told = [];
  for (const type of ["change", "gap", "error", "feed"])
    feed.addEventListener(type, ({ detail }) => told.push(detail.bug ?? detail.state ?? type));
  await flow();
  return { feed, http, told: () => told.splice(0) };
};

/** Answers what the page asks just now. */
const answer = async ({ http }, cursor, bugs = [], more = {}) => {
  const request = http.next();
  const replay = request.question.cursor && "complete";
  request.answer({ changes: bugs.map((bug) => ({ bug, when })), replay, cursor, ...more });
  await flow();
  return request.question;
};

const quiet = (...pages) => pages.forEach(({ http }, at) => assert.equal(http.requests.length, 0, `page ${at} asks`));

/** Pages that are up, the first of which leads. */
const several = async (...lists) => {
  const pages = [];
  for (const bugs of lists) {
    const each = await page(bugs);
    await answer(each, "E.9");
    pages.push(each);
  }
  const [stream] = streams;
  stream.on.open();
  stream.hello();
  stream.covers();
  await flow();
  for (const each of pages) {
    await clock.advance(500);
    while (each.http.requests.length) await answer(each, "E.9");
    each.told();
  }
  await clock.advance(500);
  quiet(...pages);
  return pages;
};

test("one connection for the bugs of all; a ring only for whom it concerns, who asks from a cursor of its own", async () => {
  const [first, second, third] = await several([1, 2], [2, 3], [4]);
  assert.equal(streams.length, 1);
  const [stream] = streams;
  assert.deepEqual(stream.asked(), ["hello", "subscribe 1,2,3,4"]);
  assert.deepEqual([first.feed.state, first.feed.transport, third.feed.state], ["open", "sse", "open"]);
  stream.update(2);
  await clock.advance(0);
  quiet(third);
  assert.deepEqual(await answer(first, "E.10", [2]), { bugs: "1,2", cursor: "E.9", wait: "0" });
  assert.deepEqual(await answer(second, "E.10", [2]), { bugs: "2,3", cursor: "E.9", wait: "0" });
  assert.deepEqual([first.told(), second.told(), third.told()], [[2], [2], []]);
  assert.deepEqual([first.feed.cursor, third.feed.cursor], ["E.10", "E.9"]);
  await clock.advance(20_000);
  quiet(first, second, third);
});

test("a page that comes late is told of what came between its answer and the connection", async () => {
  const [first] = await several([1]);
  const [stream] = streams;
  stream.asked();
  const late = await page([7]);
  await answer(late, "E.9");
  assert.deepEqual(stream.asked(), ["subscribe 7"]);
  await clock.advance(1000);
  quiet(first, late);
  stream.covers();
  await clock.advance(0);
  await answer(late, "E.12", [7]);
  assert.deepEqual(late.told(), [7]);
  // So is one whose bugs are on their way for another one already.
  const other = await page([8]);
  await answer(other, "E.12");
  const same = await page([8]);
  await answer(same, "E.12");
  assert.deepEqual(stream.asked(), ["subscribe 8"]);
  await clock.advance(1000);
  quiet(same);
  stream.covers();
  await clock.advance(0);
  await answer(same, "E.13", [8]);
  assert.deepEqual(same.told(), [8]);
});

test("bugs that are watched later, and no more", async () => {
  const [first, second] = await several([1], [2]);
  const [stream] = streams;
  stream.asked();
  second.feed.subscribe(3);
  second.feed.unsubscribe(2);
  await clock.advance(100);
  assert.deepEqual(await answer(second, "E.10"), { bugs: "3", cursor: "E.9", wait: "0" });
  assert.deepEqual(stream.asked(), ["unsubscribe 2", "subscribe 3"]);
  stream.covers();
  await clock.advance(500);
  await answer(second, "E.10");
  stream.update(3);
  stream.update(2);
  await clock.advance(500);
  await answer(second, "E.11", [3]);
  assert.deepEqual(second.told(), [3]);
  quiet(first, second);
});

test("the leader is closed: another leads at once, and asks for what came in between", async () => {
  const [first, second, third] = await several([1], [2], [3]);
  first.feed.close();
  await flow();
  assert.deepEqual([streams.length, streams[0].ended], [2, true]);
  assert.deepEqual([second.feed.state, third.feed.state], ["open", "open"]);
  const [, stream] = streams;
  stream.on.open();
  assert.deepEqual(stream.asked(), ["hello", "subscribe 2,3"]);
  // Bug 3 changes while nobody listens for it.
  stream.hello();
  stream.covers();
  await clock.advance(500);
  await answer(second, "E.9");
  await answer(third, "E.10", [3]);
  assert.deepEqual([second.told(), third.told()], [[], [3]]);
});

test("a page that does not lead goes: nobody notices", async () => {
  const [first, second] = await several([1], [2]);
  second.feed.close();
  await clock.advance(1000);
  assert.deepEqual([streams.length, streams[0].ended, first.feed.state], [1, false, "open"]);
});

test("the leader is frozen: another one steals the lead, and the old one lets go when it wakes up", async () => {
  const [first, second] = await several([1], [2]);
  freeze(0);
  // Its connection goes on speaking, to nobody.
  for (let seconds = 0; seconds < 50; seconds += 10) {
    assert.equal(streams.length, 1, "it may be slow");
    streams[0].say({ command: "heartbeat", cursor: "E.9" });
    await clock.advance(10_000);
  }
  assert.equal(streams.length, 2, "nobody has stolen the lead");
  thaw();
  await flow();
  assert.ok(streams[0].ended, "two lead");
  assert.equal(streams.filter(({ ended }) => !ended).length, 1);
  // What changed meanwhile, the other one is told.
  streams[1].on.open();
  streams[1].hello();
  streams[1].covers();
  await clock.advance(0);
  await answer(second, "E.10", [2]);
  assert.deepEqual([second.told(), first.feed.state], [[2], "open"]);
});

test("the connection is lost: each page says so, and comes back by itself, with the reason", async () => {
  const [first, second] = await several([1], [2]);
  const reasons = [];
  for (const { feed } of [first, second])
    feed.addEventListener("state", ({ detail }) => detail.reason && reasons.push(detail.reason));
  streams[0].on.close({ reason: "the stream ended" });
  await flow();
  assert.deepEqual([first.feed.state, second.feed.state], ["waiting", "waiting"]);
  assert.deepEqual(reasons, ["the stream ended", "the stream ended"]);
  await clock.advance(750);
  for (const each of [first, second]) assert.equal((await answer(each, "E.10")).cursor, "E.9");
  assert.deepEqual([first.feed.state, second.feed.state, streams.length], ["open", "open", 2]);
});

test("a gateway that goes away says when to come back: not all at the same moment", async () => {
  const [first, second] = await several([1], [2]);
  const delays = [];
  for (const { feed } of [first, second])
    feed.addEventListener("state", ({ detail }) => detail.delay && delays.push(detail.delay));
  streams[0].say({ command: "goaway", retry_after_ms: 2000, cursor: "E.9" });
  Math.random = () => 0;
  streams[0].on.close({ code: 1012, reason: "restart" });
  await flow();
  assert.deepEqual(delays, [2000, 2000], "random between one and two of it");
});

test("silence of the connection is its end", async () => {
  const [first] = await several([1]);
  streams[0].say({ command: "heartbeat", cursor: "E.9" });
  await clock.advance(24_999);
  assert.equal(first.feed.state, "open");
  await clock.advance(1);
  assert.deepEqual([first.feed.state, streams[0].ended], ["waiting", true]);
});

test("heartbeats and notices reach every page", async () => {
  const [first, second] = await several([1], [2]);
  const [stream] = streams;
  stream.say({ command: "feed", state: "paused", since: when });
  await flow();
  assert.deepEqual([first.told(), second.told()], [["paused"], ["paused"]]);
  stream.say({ command: "heartbeat", cursor: "E.9", state: "paused" });
  await flow();
  assert.deepEqual([first.feed.feedState, second.feed.feedState], ["paused", "paused"]);
  stream.say({ command: "heartbeat", cursor: "E.9" });
  await flow();
  assert.deepEqual([first.told(), second.told()], [["live"], ["live"]]);
  for (let seconds = 0; seconds < 120; seconds += 10) {
    stream.say({ command: "heartbeat", cursor: "E.9" });
    await clock.advance(10_000);
  }
  assert.deepEqual([first.feed.state, second.feed.state, streams.length], ["open", "open", 1]);
});

test("a gap: each page asks what became of its own bugs, and tells of it later where many are told", async () => {
  const [first, second] = await several([1], [2]);
  streams[0].say({ command: "gap", cursor: "F.1", spread_ms: 20_000 });
  await clock.advance(0);
  first.http.next().answer({ changes: [], replay: "gap", cursor: "F.1" });
  second.http.next().answer({ changes: [], replay: "complete", cursor: "E.9" });
  await clock.advance(9_000);
  assert.deepEqual([first.told(), second.told()], [[], []]);
  await clock.advance(1_000);
  assert.deepEqual([first.told(), second.told()], [["gap"], []]);
});

test("a gateway that is behind the one that rang is asked again, some times", async () => {
  const [first] = await several([1]);
  streams[0].update(1);
  await clock.advance(0);
  await answer(first, "E.9");
  await clock.advance(500);
  await answer(first, "E.9");
  await clock.advance(1000);
  await answer(first, "E.10", [1]);
  assert.deepEqual(first.told(), [1]);
  await clock.advance(5000);
  quiet(first);
  streams[0].update(1);
  await clock.advance(0);
  for (const wait of [500, 1000, 2000, 4000]) {
    await answer(first, "E.10");
    await clock.advance(wait);
  }
  await answer(first, "E.10");
  await clock.advance(5000);
  quiet(first);
});

test("a flood of rings is asked for twice a second, and never breaks off a question", async () => {
  const [first] = await several([1]);
  for (let ms = 0; ms < 100; ms += 10) {
    streams[0].update(1);
    await clock.advance(10);
  }
  const request = first.http.next();
  quiet(first);
  assert.ok(!request.signal.aborted);
  request.answer({ changes: Array(10).fill({ bug: 1, when }), replay: "complete", cursor: "E.20" });
  await clock.advance(499);
  quiet(first);
  await clock.advance(1);
  await answer(first, "E.20");
  await clock.advance(5000);
  quiet(first);
});

test("asked unasked from time to time, so that a cursor does not grow old", async () => {
  const [first] = await several([1]);
  for (let seconds = 0; seconds < 280; seconds += 10) {
    streams[0].say({ command: "heartbeat", cursor: "E.9" });
    await clock.advance(10_000);
  }
  assert.equal((await answer(first, "E.77")).cursor, "E.9");
  assert.equal(first.feed.cursor, "E.77");
});

test("more bugs than a connection may have: those pages ask by themselves", async () => {
  const [first] = await several([1]);
  const many = await page([2]);
  await answer(many, "E.9");
  streams[0].say({ command: "subscribe", result: "error", error: "too many subscriptions" });
  await flow();
  // What came in between, then every now and then.
  for (const wait of [500, 10_000, 10_000]) {
    streams[0].say({ command: "heartbeat", cursor: "E.9" });
    await clock.advance(wait - 1);
    quiet(many);
    await clock.advance(1);
    await answer(many, "E.10", [2]);
    assert.deepEqual(many.told(), [2]);
  }
  quiet(first);
  // Until there is room.
  first.feed.unsubscribe(1);
  many.feed.subscribe(3);
  await clock.advance(100);
  await answer(first, "E.10");
  await answer(many, "E.10");
  assert.deepEqual(streams[0].asked().slice(-3), ["unsubscribe 1", "subscribe 2", "subscribe 3"]);
  for (const _ of [2, 3]) streams[0].covers();
  await clock.advance(500);
  await answer(many, "E.10");
  streams[0].say({ command: "heartbeat", cursor: "E.9" });
  await clock.advance(20_000);
  quiet(many);
});

test("a page that is left or frozen holds nothing", async () => {
  const [first, second] = await several([1], [2]);
  document.dispatchEvent(new Event("freeze"));
  await flow();
  assert.deepEqual([first.feed.state, second.feed.state, streams[0].ended], ["waiting", "waiting", true]);
});

test("without locks each page asks, and holds no connection", async () => {
  define("navigator", {});
  const alone = await page([1]);
  assert.equal((await answer(alone, "E.9")).wait, "0");
  assert.deepEqual([alone.feed.state, streams.length], ["open", 0]);
  await clock.advance(500);
  await answer(alone, "E.9");
  await clock.advance(9_999);
  quiet(alone);
  await clock.advance(1);
  assert.deepEqual(await answer(alone, "E.10", [1]), { bugs: "1", cursor: "E.9", wait: "0" });
  assert.deepEqual(alone.told(), [1]);
  // Nobody looks.
  document.hidden = true;
  await clock.advance(10_000);
  await answer(alone, "E.10");
  await clock.advance(44_999);
  quiet(alone);
  await clock.advance(1);
  await answer(alone, "E.10");
  assert.equal(alone.feed.state, "open");
  // Somebody does again.
  await clock.advance(6_000);
  document.hidden = false;
  document.dispatchEvent(new Event("visibilitychange"));
  await clock.advance(100);
  await answer(alone, "E.11", [1]);
  assert.deepEqual(alone.told(), [1]);
});
