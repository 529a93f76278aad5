// Which transport is taken when: WebSockets and requests that the test decides about.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Bugfeed } from "../bugfeed.js";
import { fallback } from "../client-fallback.js";
import "../client-queue.js";
import { Http } from "./http.mjs";
import { Clock, settled } from "./support.mjs";

const { fetch } = globalThis;
let clock;
let http;
let feeds;
beforeEach(() => {
  clock = new Clock();
  clock.rounds = 5;
  http = new Http();
  globalThis.fetch = http.fetch;
  feeds = [];
});
afterEach(() => {
  for (const feed of feeds) feed.close();
  globalThis.fetch = fetch;
  clock.remove();
});

const flow = () => settled(5);
const hello = { command: "hello", result: "ok", version: "0.1.0", feed: "default", heartbeat: 30, cursor: "E.9" };
const heartbeat = { command: "heartbeat", cursor: "E.10" };

/** WebSockets that the test decides about. */
const sockets = () => {
  const made = [];
  class Socket {
    sent = [];
    constructor() {
      made.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text).command);
    }
    close() {
      this.closed = true;
    }
    fail = () => this.onclose({ code: 1006, reason: "" });
    work(...more) {
      this.onopen({});
      for (const message of [hello, ...more]) this.onmessage({ data: JSON.stringify(message) });
    }
  }
  return { Socket, made, next: () => made.shift() ?? assert.fail("no WebSocket was tried") };
};

/** A feed that chooses by itself, where two WebSockets were in vain. */
const blocked = async () => {
  const { Socket, ...tried } = sockets();
  const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], WebSocket: Socket });
  feeds.push(feed);
  await flow();
  tried.next().fail();
  await clock.advance(750);
  tried.next().fail();
  // The module is loaded meanwhile; how long that takes is not the clock's affair.
  await import("../client-fallback.js");
  await clock.advance(1500);
  return { feed, tried };
};

const nextDelay = async (feed) => {
  assert.equal(feed.state, "waiting");
  while (feed.state === "waiting") await clock.advance(250);
};

const streams = (request, ...messages) => {
  request.open();
  for (const message of [hello, { command: "subscribe", result: "ok", count: 1, cursor: "E.9" }, ...messages])
    request.say(message);
};

test("two attempts in vain, then SSE, then long-poll, then WebSocket again; one each time", async () => {
  const { feed, tried } = await blocked();
  const seen = [];
  for (let attempt = 0; attempt < 8; attempt++) {
    assert.equal(tried.made.length + http.requests.length, 1, seen.join());
    seen.push(feed.transport);
    if (tried.made.length) tried.next().fail();
    else http.next().fail();
    await flow();
    await nextDelay(feed);
  }
  const round = ["sse", "long-poll", "websocket", "websocket"];
  assert.deepEqual(seen, [...round, ...round]);
});

test("a stream that a proxy keeps is given up for long-poll, which is remembered", async () => {
  const { feed } = await blocked();
  const stream = http.next();
  assert.equal(stream.url.pathname, "/sse");
  await clock.advance(8_000);
  await clock.advance(3_000);
  const poll = http.next();
  assert.equal(poll.url.pathname, "/changes");
  poll.answer({ changes: [], cursor: "E.9" });
  await clock.advance(0);
  assert.deepEqual([feed.state, feed.transport], ["open", "long-poll"]);
  for (let attempt = 0; attempt < 4; attempt++) {
    http.next().fail();
    await flow();
    await nextDelay(feed);
    assert.equal(feed.transport, "long-poll");
  }
  http.next().fail();
  await flow();
  await nextDelay(feed);
  assert.notEqual(feed.transport, "long-poll");
});

test("a stream that begins well and is kept then is not what works", async () => {
  const { feed } = await blocked();
  streams(http.next());
  await flow();
  assert.deepEqual([feed.state, feed.transport], ["open", "sse"]);
  await clock.advance(75_000);
  await nextDelay(feed);
  assert.equal(feed.transport, "long-poll");
});

test("while SSE works, WebSocket is tried beside it, and taken when it speaks", async () => {
  const { feed, tried } = await blocked();
  const states = [];
  feed.addEventListener("state", ({ detail }) => states.push(detail.state));
  const stream = http.next();
  streams(stream, heartbeat);
  const pass = async (ms) => {
    for (; ms > 0; ms -= 15_000) {
      stream.say(heartbeat);
      await clock.advance(15_000);
    }
  };
  const gaps = [];
  let before = 0;
  for (let now = 0; now < 4 * 3_600_000; now += 15_000) {
    await pass(15_000);
    if (!tried.made.length) continue;
    gaps.push(Math.round((now - before) / 60_000));
    before = now;
    tried.next().fail();
  }
  assert.deepEqual(gaps, [1, 2, 3, 6, 12, 24, 45, 45, 45, 45], "in minutes");
  assert.deepEqual(states, ["open"], "nobody noticed");
  while (!tried.made.length) await pass(15_000);
  const socket = tried.next();
  socket.work();
  assert.deepEqual([socket.sent, socket.closed, stream.signal.aborted, feed.state], [["hello"], true, true, "waiting"]);
  await clock.advance(750);
  const next = tried.next();
  next.work();
  assert.deepEqual([feed.state, feed.transport], ["open", "websocket"]);
  assert.equal(http.requests.length, 0);
});

test("a trial that hangs ends, and ends with the feed", async () => {
  const { feed, tried } = await blocked();
  const stream = http.next();
  streams(stream, heartbeat);
  await clock.advance(45_000);
  const first = tried.next();
  stream.say(heartbeat);
  await clock.advance(15_000);
  assert.ok(first.closed);
  stream.say(heartbeat);
  await clock.advance(60_000);
  stream.say(heartbeat);
  await clock.advance(30_000);
  const second = tried.next();
  feed.close();
  assert.ok(second.closed);
  second.work();
  await clock.advance(3_600_000);
  assert.equal(tried.made.length, 0);
});

test("a WebSocket that opens and says nothing is one in vain, after 15 s", async () => {
  const { Socket, ...tried } = sockets();
  const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], WebSocket: Socket });
  feeds.push(feed);
  await flow();
  tried.next().onopen({});
  await clock.advance(15_000);
  assert.equal(feed.state, "waiting");
});

test("a server that knows no SSE is asked by WebSocket; what the gateway itself refuses is final", async () => {
  for (const [status, gateway, state] of [
    [404, false, "waiting"],
    [400, false, "waiting"],
    [405, false, "waiting"],
    [403, false, "waiting"],
    [404, true, "closed"],
    [403, true, "closed"],
    [503, true, "waiting"],
  ]) {
    const { feed, tried } = await blocked();
    http.next().answer("There is no feed here", status, "text/plain", { gateway });
    await flow();
    assert.equal(feed.state, state, `${status} ${gateway}`);
    if (state === "closed" || ![400, 404, 405].includes(status)) {
      feed.close();
      continue;
    }
    await nextDelay(feed);
    tried.next().fail();
    await nextDelay(feed);
    tried.next();
    assert.equal(http.requests.length, 0);
    feed.close();
  }
});

test("a wrong feed in a browser, which does not show what a WebSocket was refused with: the gateway's own word", async () => {
  const { feed } = await blocked();
  const failed = new Promise((resolve) => feed.addEventListener("error", ({ detail }) => resolve(detail)));
  const word = "There is no feed here. Feeds: /, /kde/";
  http.next().answer({ error: word }, 404, "application/json", { gateway: true });
  const { final, status, message } = await failed;
  assert.deepEqual([final, status, feed.state], [true, 404, "closed"]);
  assert.ok(message.endsWith(word), message);
});

test("behind a proxy whose gateway is away, three answers of a kind are told, whatever WebSockets hide", async () => {
  const { feed, tried } = await blocked();
  const errors = [];
  feed.addEventListener("error", ({ detail }) => errors.push([detail.status, detail.final]));
  for (let attempt = 0; attempt < 6; attempt++) {
    if (tried.made.length) tried.next().fail();
    else http.next().answer("<h1>502 Bad Gateway</h1>", 502, "text/html");
    await flow();
    await nextDelay(feed);
  }
  assert.deepEqual(errors, [[502, false]]);
});

/** What `ws` shows of the answer to a handshake. */
const refusing = (status, headers, ...pieces) => {
  const { Socket, ...tried } = sockets();
  class Ws extends Socket {
    on(type, then) {
      assert.equal(type, "unexpected-response");
      this.answered = () =>
        then({}, { statusCode: status, headers, [Symbol.asyncIterator]: () => pieces[Symbol.iterator]() });
    }
  }
  return { Socket: Ws, ...tried };
};

test("what `ws` shows of a refusal: only the gateway's own is final, and a stripped handshake never", async () => {
  const own = { "bugfeed-version": "0.1.0" };
  for (const [status, headers, state] of [
    [404, own, "closed"],
    [403, own, "closed"],
    [404, {}, "waiting"],
    [403, {}, "waiting"],
    [400, own, "waiting"],
    [426, own, "waiting"],
    [429, own, "waiting"],
    [503, own, "waiting"],
    [200, {}, "waiting"],
    [301, {}, "waiting"],
  ]) {
    const { Socket, ...tried } = refusing(status, headers, '{"error":"There is ', 'no feed here"}');
    const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], WebSocket: Socket });
    feeds.push(feed);
    const waiting = new Promise((resolve) => feed.addEventListener("state", ({ detail }) => detail.reason && resolve(detail)));
    const failed = new Promise((resolve) => feed.addEventListener("error", ({ detail }) => resolve(detail)));
    await flow();
    tried.next().answered();
    await flow();
    assert.equal(feed.state, state, `${status} ${JSON.stringify(headers)}`);
    if (state === "closed") assert.match((await failed).message, new RegExp(`${status}.*There is no feed here$`));
    else assert.equal((await waiting).reason, "There is no feed here");
    feed.close();
  }
});

test("a WebSocket that fails before it opens ends the attempt at once, whether it tells of an end or not", async () => {
  const { Socket, ...tried } = sockets();
  const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], WebSocket: Socket });
  feeds.push(feed);
  const reasons = [];
  feed.addEventListener("state", ({ detail }) => detail.state === "waiting" && reasons.push(detail.reason));
  await flow();
  const first = tried.next();
  // Node 20 and 22 leave it at that.
  first.onerror({ message: "Received network error or non-101 status code." });
  assert.deepEqual([feed.state, reasons], ["waiting", ["Received network error or non-101 status code."]]);
  first.fail();
  assert.equal(reasons.length, 1, "what still comes from it does not count");
  await clock.advance(750);
  const second = tried.next();
  second.work();
  // Afterwards an error only says why the end comes, which has a code.
  second.onerror({ message: "Invalid frame" });
  assert.equal(feed.state, "open");
  second.onclose({ code: 1002, reason: "" });
  assert.equal(feed.state, "closed");
});

test("cookies go with what is fetched only where that is wanted", async () => {
  for (const withCredentials of [true, false, undefined]) {
    const asked = [];
    globalThis.fetch = (url, { credentials }) => (asked.push(credentials), new Promise(() => {}));
    const socket = () => ({ send() {}, close() {} });
    const choosing = fallback(socket, false, { withCredentials });
    for (let attempt = 0; attempt < 2; attempt++) {
      const link = choosing("ws://gateway.test/", {
        open: () => link.send({ command: "hello", heartbeat: 30 }),
        message() {},
        close() {},
      });
      await flow();
      link.close();
    }
    const wanted = withCredentials ? "include" : "same-origin";
    assert.deepEqual(asked, [wanted, wanted]);
  }
});

test("a WebSocket that has worked is given up less soon", async () => {
  const tried = [];
  const socket = () => (tried.push("websocket"), { send() {}, close() {} });
  const choosing = fallback(socket, true);
  assert.equal(fallback(choosing, false), choosing, "it keeps what it has learnt");
  for (let attempt = 0; attempt < 6; attempt++) {
    const link = choosing("ws://gateway.test/", { open() {}, message() {}, close() {} });
    if (link.name) tried.push(link.name);
    link.close();
  }
  // Two were in vain before.
  const others = ["sse", "long-poll"];
  assert.deepEqual(tried, ["websocket", "websocket", ...others, "websocket", "websocket"]);
});
