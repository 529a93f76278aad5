// SSE and long-poll, with a network of the test's own.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Http } from "./http.mjs";
import { Clock, settled } from "./support.mjs";

// Node has none; the client looks for it when it is made.
const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
const { Bugfeed } = await import("../bugfeed.js");
const { eventStream, longPoll } = await import("../client-fallback.js");
// The module that the client loads when it has reason to: how long that takes is not the clock's affair.
await import("../client-queue.js");

let clock;
let http;
let feeds;
beforeEach(() => {
  clock = new Clock();
  clock.rounds = 5;
  http = new Http();
  feeds = [];
});
afterEach(() => {
  for (const feed of feeds) feed.close();
  clock.remove();
});

const flow = () => settled(5);
const when = "2014-04-03T21:13:45";
const hello = { command: "hello", result: "ok", version: "0.1.0", feed: "default", heartbeat: 30, cursor: "E.9" };

/** A feed, with what it tells, and its first request. */
const start = async (transport, options) => {
  const feed = new Bugfeed("wss://gateway.test:1/kde/", { bugs: [1, 2], transport: transport(http.fetch), ...options });
  feeds.push(feed);
  const told = [];
  for (const type of ["change", "gap", "error", "subscribed"])
    feed.addEventListener(type, ({ detail }) => told.push([type, detail.bug ?? detail.bugs ?? detail.status]));
  await flow();
  return { feed, told: () => told.splice(0), request: http.next() };
};

const startStream = async (options) => {
  const started = await start(eventStream, options);
  started.request.open();
  started.request.say(hello);
  started.request.say({ command: "subscribe", result: "ok", count: 2, cursor: "E.9" });
  await flow();
  return started;
};

test("a stream is asked for with all there is to ask", async () => {
  const { feed, request } = await start(eventStream, { cursor: "E.5&x=y" });
  assert.equal(request.method, "GET");
  assert.equal(request.url.href, "https://gateway.test:1/kde/sse?bugs=1,2&cursor=E.5%26x%3Dy&heartbeat=30");
  assert.equal(feed.state, "connecting");
  request.open();
  request.write("retry: 1500\n\n: comment\n\n");
  request.say(hello);
  request.say({ command: "subscribe", result: "ok", count: 2, replay: "complete", cursor: "E.5" });
  await flow();
  const { state, transport, protocol, replay, cursor, head, welcome } = feed;
  assert.deepEqual([state, transport, protocol, replay], ["open", "sse", "modern", "complete"]);
  assert.deepEqual([cursor, head, welcome.version, welcome.feed], ["E.5", "E.9", "0.1.0", "default"]);
  feed.close();
  assert.ok(request.signal.aborted);
});

test("an address keeps its query and gets the name of the way; a date is a date", async () => {
  const urls = [];
  for (const [url, transport] of [
    ["ws://host:8844/kde?token=a%20b", eventStream],
    ["wss://host", longPoll],
  ]) {
    const options = { bugs: [7], cursor: "since:2014-04-03T21:13:45", transport: transport(http.fetch) };
    const feed = new Bugfeed(url, options);
    await flow();
    urls.push(http.next().url.href);
    feed.close();
  }
  const since = "since=2014-04-03T21%3A13%3A45";
  assert.deepEqual(urls, [
    `http://host:8844/kde/sse?token=a%20b&bugs=7&${since}&heartbeat=30`,
    `https://host/changes?bugs=7&${since}&wait=0`,
  ]);
});

test("what is too long for an address is posted", async () => {
  const bugs = Array.from({ length: 1000 }, (_, index) => index + 1);
  const { feed, request } = await start(eventStream, { bugs });
  assert.deepEqual([request.method, request.url.search], ["POST", ""]);
  assert.equal(request.headers["content-type"], "application/x-www-form-urlencoded");
  assert.equal(request.question.bugs, bugs.join());
  feed.close();
});

test("a stream may be cut anywhere, also within a letter", async () => {
  const { feed, request, told } = await startStream();
  const bytes = new TextEncoder().encode(
    `id: E.10\r\ndata:{"command":"update","bug":1,"when":"${when}","note":"é","cursor":"E.10"}\r\n\r\n`,
  );
  told();
  for (const byte of bytes) request.write(new Uint8Array([byte]));
  await settled(300);
  assert.deepEqual([told(), feed.cursor], [[["change", 1]], "E.10"]);
  feed.close();
});

test("a line without an end is given up", async () => {
  const { feed, request } = await startStream();
  for (let count = 0; count < 5; count++) request.write("x".repeat(16_384));
  await flow();
  assert.deepEqual([feed.state, request.signal.aborted], ["waiting", true]);
  feed.close();
});

test("bugs that come and go: one request for all of them, from the last cursor", async () => {
  const { feed, request, told } = await startStream();
  request.say({ command: "update", bug: 1, when, cursor: "E.12" });
  request.say({ command: "heartbeat", cursor: "E.15" });
  await flow();
  assert.deepEqual(told(), [["subscribed", [1, 2]], ["change", 1]]);
  for (const bug of [3, 4]) {
    feed.subscribe(bug);
    await flow();
  }
  feed.unsubscribe(1);
  await flow();
  assert.equal(http.requests.length, 0, "they are gathered");
  await clock.advance(100);
  const next = http.next();
  assert.ok(request.signal.aborted);
  assert.deepEqual(next.question, { bugs: "2,3,4", cursor: "E.15", heartbeat: "30" });
  next.open();
  next.say(hello);
  next.say({ command: "subscribe", result: "ok", count: 3, replay: "complete", cursor: "E.15" });
  next.say({ command: "update", bug: 3, when, cursor: "E.16" });
  await flow();
  assert.deepEqual(told(), [["subscribed", [3]], ["subscribed", [4]], ["change", 3]]);
  assert.deepEqual([feed.cursor, feed.state], ["E.16", "open"]);
  feed.close();
});

test("where resuming for new bugs is a gap, all are told so", async () => {
  const { feed, told } = await startStream();
  feed.subscribe(3);
  await flow();
  await clock.advance(100);
  const next = http.next();
  next.open();
  next.say({ command: "subscribe", result: "ok", count: 3, replay: "gap", cursor: "F.2" });
  await flow();
  assert.deepEqual(told(), [["subscribed", [1, 2]], ["gap", [1, 2, 3]], ["subscribed", [3]]]);
  assert.equal(feed.cursor, "F.2");
  feed.close();
});

test("a session without bugs waits; its first ones start now", async () => {
  for (const transport of [eventStream, longPoll]) {
    const { feed, request } = await start(transport, { bugs: [] });
    assert.equal(request.question.bugs, "");
    if (transport === eventStream) {
      request.open();
      request.say(hello);
      request.say({ command: "subscribe", result: "ok", count: 0, cursor: "E.9" });
      request.say({ command: "heartbeat", cursor: null });
    } else request.answer({ changes: [], cursor: "E.9" });
    await flow();
    await clock.advance(0);
    assert.deepEqual([feed.state, feed.head, feed.cursor], ["open", "E.9", null]);
    http.requests.length = 0;
    feed.subscribe(5);
    await flow();
    await clock.advance(100);
    const { bugs, cursor } = http.next().question;
    assert.deepEqual([bugs, cursor], ["5", undefined]);
    feed.close();
  }
});

test("too many bugs: refused in the order asked, the others go on", async () => {
  const { feed, told } = await startStream();
  told();
  for (const bug of [3, 4]) {
    feed.subscribe(bug);
    await flow();
  }
  await clock.advance(100);
  const tooMany = { error: "too many subscriptions: 4 bugs, at most 3" };
  const all = http.next();
  assert.equal(all.question.bugs, "1,2,3,4");
  all.answer(tooMany, 400);
  await flow();
  // The first may be welcome.
  const first = http.next();
  assert.equal(first.question.bugs, "1,2,3");
  first.open();
  first.say({ command: "subscribe", result: "ok", count: 3, replay: "complete", cursor: "E.9" });
  await flow();
  await clock.advance(100);
  const second = http.next();
  assert.equal(second.question.bugs, "1,2,3,4");
  second.answer(tooMany, 400);
  await flow();
  assert.equal(http.next().question.bugs, "1,2,3");
  assert.deepEqual(told(), [["subscribed", [3]], ["error", [4]]]);
  assert.deepEqual([feed.state, feed.bugs], ["open", [1, 2, 3]]);
  feed.close();
});

test("of refusals, only what the gateway itself says is final, and not what means later", async () => {
  const statuses = [400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 413, 414, 421, 422, 425, 426, 429, 431, 451, 499];
  const others = [204, 300, 304, 500, 501, 502, 503, 504, 520, 530];
  for (const transport of [eventStream, longPoll])
    for (const status of [...statuses, ...others])
      for (const gateway of [true, false]) {
        const isFinal = gateway && statuses.includes(status) && ![408, 425, 429].includes(status);
        const { feed, request, told } = await start(transport);
        // A proxy may speak JSON, too.
        const word = status % 2 ? { error: "no such thing" } : "nonsense";
        request.answer(word, status, "text/html", { gateway });
        await flow();
        const wanted = isFinal ? ["closed", [["error", status]]] : ["waiting", []];
        assert.deepEqual([feed.state, told()], wanted, `${status} of ${gateway ? "the gateway" : "a proxy"}`);
        feed.close();
      }
});

test("the gateway's own word is the error's text; another page in its place is no gateway", async () => {
  for (const transport of [eventStream, longPoll]) {
    const { feed, request } = await start(transport);
    const failed = new Promise((resolve) => feed.addEventListener("error", ({ detail }) => resolve(detail)));
    request.answer({ error: "There is no feed here. Feeds: /, /gnome/" }, 404, "application/json", { gateway: true });
    const { message, final, status } = await failed;
    assert.match(message, /wss:\/\/gateway\.test:1\/kde\/ .*404.*There is no feed here\. Feeds: \/, \/gnome\/$/);
    assert.deepEqual([final, status], [true, 404]);
    feed.close();
  }
});

test("three answers of a kind in a row are told once, in the answerer's words, and the feed goes on", async () => {
  for (const [answer, status, words] of [
    [["nginx", 404, "text/html"], 404, /404.*trying on/],
    [["<p>Log in to this network", 200, "text/html"], 200, /200.*no (stream|answer) of a gateway.*trying on/],
    [[{ error: "the gateway is full" }, 503, "application/json", { gateway: true }], 503, /503.*is full.*trying on/],
  ])
    for (const transport of [eventStream, longPoll]) {
      let { feed, request } = await start(transport);
      const errors = [];
      feed.addEventListener("error", ({ detail }) => errors.push(detail));
      for (let attempt = 1; attempt <= 6; attempt++) {
        request.answer(...answer);
        await flow();
        assert.deepEqual([feed.state, errors.length], ["waiting", attempt < 3 ? 0 : 1], `attempt ${attempt}`);
        feed.reconnect();
        await flow();
        request = http.next();
      }
      assert.match(errors[0].message, words);
      assert.deepEqual([errors[0].final, errors[0].status], [false, status]);
      feed.close();
    }
});

test("what a server asks for with Retry-After comes on top of the back-off, five minutes of it", async () => {
  const inTen = new Date(Date.now() + 10_000).toUTCString();
  for (const [status, after, wait] of [
    [503, "2", 2_000],
    [429, "7", 7_000],
    [503, inTen, 10_000],
    [503, "86400", 300_000],
    [503, "soon", 0],
    [503, "-5", 0],
    [502, "2", 0],
  ])
    for (const transport of [eventStream, longPoll]) {
      const { feed, request } = await start(transport);
      const waiting = new Promise((resolve) => feed.addEventListener("state", ({ detail }) => resolve(detail)));
      request.answer("busy", status, "text/plain", { "Retry-After": after });
      assert.equal((await waiting).delay, 750 + wait, `${status}, ${after}`);
      feed.close();
    }
});

test("a paused feed says so in each answer and in the stream; the notice comes before the bugs", async () => {
  const states = (feed) => {
    const seen = [];
    feed.addEventListener("feed", ({ detail }) => seen.push(detail.state));
    return seen;
  };
  const polled = await start(longPoll);
  const seen = states(polled.feed);
  polled.request.answer({ changes: [], cursor: "E.9", state: "paused" });
  await clock.advance(0);
  assert.deepEqual([seen, polled.feed.feedState], [["paused"], "paused"]);
  http.next().answer({ changes: [{ bug: 1, when }], replay: "complete", cursor: "E.10" });
  await flow();
  assert.deepEqual([seen, polled.feed.feedState], [["paused", "live"], "live"]);
  polled.feed.close();

  const streamed = await start(eventStream);
  const told = states(streamed.feed);
  streamed.request.open();
  for (const message of [
    hello,
    { command: "feed", state: "paused", since: when },
    { command: "subscribe", result: "ok", count: 2, cursor: "E.9" },
    { command: "heartbeat", cursor: "E.9", state: "paused" },
    { command: "heartbeat", cursor: "E.9" },
  ])
    streamed.request.say(message);
  await flow();
  assert.deepEqual(told, ["paused", "live"]);
  // Paused, polled anew: no word of live in between.
  http.requests.length = 0;
});

test("long-poll: a gap that many are told of is told later", async () => {
  const { feed, request, told } = await start(longPoll, { cursor: "E.5" });
  request.answer({ changes: [], replay: "complete", cursor: "E.8" });
  await clock.advance(0);
  told();
  http.next().answer({ changes: [{ bug: 2, when }], replay: "gap", cursor: "F.1", spread_ms: 20_000 });
  await flow();
  assert.deepEqual(told(), [["change", 2]]);
  await clock.advance(10_000);
  assert.deepEqual(told(), [["gap", [1, 2]]]);
  feed.close();
});

test("the sign of life of a stream: what came just now, otherwise another stream in its place", async () => {
  const { feed, request } = await startStream();
  await clock.advance(4_000);
  page.dispatchEvent(new Event("online"));
  await clock.advance(4_999);
  assert.deepEqual([feed.state, http.requests.length], ["open", 0]);
  page.dispatchEvent(new Event("online"));
  await clock.advance(100);
  const next = http.next();
  assert.deepEqual(next.question, { bugs: "1,2", cursor: "E.9", heartbeat: "30" });
  assert.ok(request.signal.aborted);
  next.open();
  next.say(hello);
  next.say({ command: "subscribe", result: "ok", count: 2, replay: "complete", cursor: "E.9" });
  await clock.advance(5_000);
  assert.equal(feed.state, "open");
  page.dispatchEvent(new Event("online"));
  await clock.advance(5_000);
  assert.equal(feed.state, "waiting", "silence");
  feed.close();
});

test("a stream that begins with silence is given up after 8 s", async () => {
  for (const begin of [() => {}, (request) => request.open()]) {
    const { feed, request } = await start(eventStream);
    begin(request);
    await clock.advance(7_999);
    assert.equal(feed.state, "connecting");
    await clock.advance(1);
    assert.deepEqual([feed.state, request.signal.aborted], ["waiting", true]);
    feed.close();
  }
});

test("long-poll: asks at once, then waits; changes, a gap, a goaway", async () => {
  const { feed, request, told } = await start(longPoll, { cursor: "E.5" });
  assert.equal(request.url.href, "https://gateway.test:1/kde/changes?bugs=1,2&cursor=E.5&wait=0");
  request.answer({ changes: [{ bug: 1, when }, { bug: 2, when }], replay: "complete", cursor: "E.8" });
  await flow();
  assert.deepEqual(told(), [["subscribed", [1, 2]], ["change", 1], ["change", 2]]);
  assert.deepEqual([feed.state, feed.transport, feed.cursor, feed.head], ["open", "long-poll", "E.8", "E.8"]);
  await clock.advance(0);
  const second = http.next();
  assert.deepEqual(second.question, { bugs: "1,2", cursor: "E.8", wait: "30" });
  await clock.advance(30_000);
  second.answer({ changes: [], replay: "complete", cursor: "E.9" });
  await clock.advance(0);
  const third = http.next();
  assert.equal(third.question.cursor, "E.9");
  third.answer({ changes: [{ bug: 2, when }], replay: "gap", cursor: "E.10" });
  await clock.advance(499);
  assert.deepEqual(told(), [["gap", [1, 2]], ["change", 2]]);
  assert.equal(http.requests.length, 0, "no faster than twice a second");
  await clock.advance(1);
  http.next().answer({ changes: [], replay: "complete", cursor: "E.11", retry_after_ms: 2300 });
  await clock.advance(0);
  assert.deepEqual([feed.state, feed.cursor], ["waiting", "E.11"]);
  await clock.advance(2299);
  assert.equal(http.requests.length, 0);
  await clock.advance(1);
  assert.equal(http.next().question.cursor, "E.11");
  feed.close();
});

test("long-poll: a bot that dies while it deals with a change gets it again", async () => {
  const values = new Map();
  const storage = { getItem: (key) => values.get(key) ?? null, setItem: (key, value) => values.set(key, value) };
  const { feed, request } = await start(longPoll, { cursor: "E.5", storage, key: "bot" });
  const reader = feed[Symbol.asyncIterator]();
  const first = reader.next();
  request.answer({ changes: [{ bug: 1, when }, { bug: 2, when }], replay: "complete", cursor: "E.8" });
  await first;
  assert.equal((await reader.next()).value.bug, 2);
  assert.equal(values.get("bot"), undefined, "bug 2 is being dealt with");
  reader.next();
  await flow();
  assert.equal(values.get("bot"), "E.8");
  feed.close();
});

test("long-poll: more is asked for at once; a cache, or a gateway without numbers, is not", async () => {
  const { feed, request, told } = await start(longPoll);
  request.answer({ changes: [{ bug: 1, when }], cursor: "E.8", more: true });
  await clock.advance(0);
  http.next().answer({ changes: [{ bug: 2, when }], replay: "complete", cursor: "E.9", more: true });
  await clock.advance(0);
  http.next().answer({ changes: [], replay: "complete", cursor: "E.9" });
  await clock.advance(29_999);
  assert.equal(http.requests.length, 0);
  await clock.advance(1);
  http.next().answer({ changes: [], replay: "gap", cursor: "unknown" });
  await clock.advance(29_999);
  assert.deepEqual([http.requests.length, told().at(-1), feed.cursor], [0, ["gap", [1, 2]], "E.9"]);
  // What is asked for need not wait.
  feed.subscribe(3);
  await flow();
  await clock.advance(100);
  assert.deepEqual(http.next().question, { bugs: "1,2,3", cursor: "E.9", wait: "0" });
  feed.close();
});

test("long-poll: a gateway that knows no number yet leaves a position that is a gap", async () => {
  const { feed, request } = await start(longPoll);
  request.answer({ changes: [], cursor: "unknown" });
  await flow();
  assert.deepEqual([feed.state, feed.cursor, feed.head], ["open", "unknown", "unknown"]);
  await clock.advance(30_000);
  assert.equal(http.next().question.cursor, "unknown");
  feed.close();
});

test("long-poll: an answer that does not come is given up", async () => {
  const { feed, request } = await start(longPoll);
  await clock.advance(15_000);
  assert.deepEqual([feed.state, request.signal.aborted], ["waiting", true]);
  feed.close();
});

test("long-poll: bugs that come and go end the wait", async () => {
  const { feed, request, told } = await start(longPoll);
  request.answer({ changes: [], cursor: "E.8" });
  await clock.advance(0);
  const waiting = http.next();
  feed.unsubscribe(1);
  feed.subscribe(3);
  await clock.advance(100);
  assert.ok(waiting.signal.aborted);
  const next = http.next();
  assert.deepEqual(next.question, { bugs: "2,3", cursor: "E.8", wait: "0" });
  next.answer({ changes: [], replay: "complete", cursor: "E.9" });
  await clock.advance(0);
  assert.deepEqual(told(), [["subscribed", [1, 2]], ["subscribed", [3]]]);
  assert.equal(http.next().question.wait, "30");
});
