// Tokens: when they are asked for, how they travel, and where they never show. What refusals lead to is in ../conformance.
import assert from "node:assert/strict";
import { once } from "node:events";
import { afterEach, beforeEach, test } from "node:test";
import { inspect } from "node:util";
import { Bugfeed, webSocket } from "../bugfeed.js";
import { eventStream, fallback, longPoll } from "../client-fallback.js";
// The modules that the client loads when it has reason to: how long that takes is not the clock's affair.
import "../client-queue.js";
import { shared } from "../client-shared.js";
import "../client-token.js";
import { Http } from "./http.mjs";
import { links, transport } from "./links.mjs";
import { Channel, Locks } from "./pages.mjs";
import { Clock, settled } from "./support.mjs";

const ws = await import("ws").catch(() => null);
// Dates of the protocol are UTC, wherever a page is looked at.
process.env.TZ = "Asia/Kolkata";
const SECRET = "eyJh.eyJz_-~.c2ln";
const flow = () => settled(6);

let clock;
let feeds;
beforeEach(() => {
  clock = new Clock();
  clock.rounds = 6;
  feeds = [];
  links.length = 0;
});
afterEach(() => {
  for (const feed of feeds) feed.close();
  clock.remove();
});

/** A feed with all that it tells, as texts. */
const start = async (options) => {
  const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], transport, ...options });
  feeds.push(feed);
  const told = [];
  for (const type of ["state", "error", "change", "gap"])
    feed.addEventListener(type, ({ detail }) => told.push(`${inspect(detail)} ${detail.stack} ${JSON.stringify(detail)}`));
  await flow();
  return { feed, told };
};
const hello = (more) => links.at(-1).say({ command: "hello", result: "ok", heartbeat: 30, cursor: "E.1", ...more });
const subscribed = () => links.at(-1).say({ command: "subscribe", result: "ok", count: 1, cursor: "E.1" });
const gateway = { gateway: true };

test("a function may take its time, and is asked anew for each attempt", async () => {
  const given = [];
  const { feed } = await start({ token: () => new Promise((resolve) => given.push(resolve)) });
  assert.deepEqual([feed.state, links.length], ["connecting", 0]);
  await clock.advance(5_000);
  given[0]("T.1");
  await flow();
  assert.equal(links[0].token, "T.1");
  links[0].on.close({ code: 1006 });
  await clock.advance(750);
  given[1]("T.2");
  await flow();
  assert.deepEqual([links.length, links[1].token], [2, "T.2"]);
});

test("a function that fails, hangs or gives no token is a connection that failed; what it gave is not shown", async () => {
  const answers = [
    () => Promise.reject(new Error("the login is away")),
    () => {
      throw new Error("at once");
    },
    () => `${SECRET} ${SECRET}`,
    () => undefined,
    () => new Promise(() => {}),
    () => "T.1\n",
  ];
  const { feed, told } = await start({ token: () => answers.shift()() });
  const reasons = [];
  for (const delay of [750, 1500, 3000, 6000]) {
    reasons.push(JSON.parse(/\{"state.*\}/.exec(told.at(-1))[0]).reason);
    await clock.advance(delay - 1);
    assert.equal(feed.state, "waiting");
    await clock.advance(1);
  }
  const none = "no token: TypeError: a token is letters, digits, and - . _ ~";
  assert.deepEqual(reasons, ["no token: Error: the login is away", "no token: Error: at once", none, none]);
  assert.equal(feed.state, "connecting");
  await clock.advance(15_000);
  assert.match(told.at(-1), /silence/);
  await clock.advance(12_000);
  assert.deepEqual([links.length, links[0].token], [1, "T.1"]);
  assert.ok(!told.join().includes(SECRET));
});

test("a feed that is closed while a token is asked for makes no connection", async () => {
  let give;
  const { feed } = await start({ token: () => new Promise((resolve) => (give = resolve)) });
  feed.close();
  give("T.1");
  await flow();
  assert.equal(links.length, 0);
});

test("a text that no token can be is an error at once, which does not show it; none is none", async () => {
  for (const token of ["a b", `${SECRET}\n${SECRET}`, " ", "ü", "a,b", {}])
    assert.throws(() => new Bugfeed("ws://gateway.test/", { transport, token }), {
      name: "TypeError",
      message: "token: letters, digits, and - . _ ~",
    });
  for (const token of ["", null, undefined]) {
    await start({ token });
    assert.equal(links.at(-1).token, undefined);
  }
});

test("a token is shown nowhere: not by the feed, not in what a server says of it, not in an error", async () => {
  for (const token of [SECRET, async () => SECRET]) {
    const { feed, told } = await start({ token, url: "ws://gateway.test/" });
    links.at(-1).on.close({ code: 1006, reason: `what is ${SECRET}?` });
    await clock.advance(750);
    links.at(-1).on.close({ status: 403, final: true, reason: `Bearer ${SECRET} may not` });
    assert.equal(feed.state, "closed");
    assert.match(told.join(), /what is …\?/);
    assert.match(told.join(), /Bearer … may not/);
    const seen = [told.join(), inspect(feed, { depth: 9, showHidden: true }), JSON.stringify(feed), `${feed}`, feed.url];
    assert.ok(!seen.join().includes(SECRET));
  }
});

test("the error of a text that was refused says so", async () => {
  const { told } = await start({ token: "T.1" });
  links[0].on.close({ code: 4401, reason: "token expired; reconnect with a new one" });
  assert.match(told.at(-2), /\(4401\): token expired; reconnect with a new one; the token was refused or has expired/);
  const other = await start({});
  links[1].on.close({ code: 4401, reason: "a token is needed" });
  assert.match(other.told.at(-2), /\(4401\): a token is needed'?\n/);
});

for (const [name, Socket] of Object.entries({ "the runtime's": globalThis.WebSocket, "`ws`": ws?.WebSocket })) {
  const skip = !(Socket && ws) && "there is none";
  test(`${name} WebSocket offers the token as a subprotocol, and none where there is none`, { skip }, async (context) => {
    clock.remove();
    const server = new ws.WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: ([first]) => first });
    context.after(() => server.close());
    await once(server, "listening");
    for (const token of [SECRET, undefined]) {
      const connected = once(server, "connection");
      let closed;
      class Kept extends Socket {
        constructor(...how) {
          super(...how);
          closed = new Promise((resolve) => this.addEventListener("close", resolve));
        }
      }
      const feed = new Bugfeed(`ws://127.0.0.1:${server.address().port}/`, { token, transport: webSocket(Kept) });
      const [socket, request] = await connected;
      const [first] = await once(socket, "message");
      const offered = request.headers["sec-websocket-protocol"]?.replaceAll(" ", "");
      assert.equal(offered, token && `bugfeed,bugfeed.bearer.${SECRET}`);
      assert.equal(JSON.parse(first).command, "hello");
      assert.doesNotMatch(`${request.url} ${first}`, /eyJh/);
      const ended = once(socket, "close");
      feed.close();
      await Promise.all([ended, closed]);
    }
  });
}

test("SSE and long-poll send it in a header, whether they ask by GET or by POST; never in the address", async () => {
  for (const way of [eventStream, longPoll])
    for (const bugs of [[1], Array.from({ length: 1000 }, (_, index) => index + 1)]) {
      const http = new Http();
      const { feed } = await start({ bugs, token: SECRET, transport: way(http.fetch) });
      const { headers, url, body } = http.next();
      assert.equal(headers.authorization, `Bearer ${SECRET}`);
      assert.ok(!`${url} ${body}`.includes(SECRET));
      feed.close();
    }
});

test("by SSE: bugs that the token is not for are a subscription that is refused; a feed that it is not for is the end", async () => {
  for (const [error, state, bugs] of [
    ["this token is not for bug 2", "connecting", []],
    ["this token is not for all bugs", "connecting", []],
    ["this token may watch at most 100 bugs", "connecting", []],
    ["this token is not for this feed", "closed", [1, 2]],
  ]) {
    const http = new Http();
    const { feed, told } = await start({ bugs: [1, 2], token: "T.1", transport: eventStream(http.fetch) });
    http.next().answer({ error }, 403, "application/json", gateway);
    await flow();
    assert.deepEqual([feed.state, feed.bugs], [state, bugs], error);
    assert.ok(told.some((text) => text.includes(error)));
    if (state === "connecting") assert.equal(http.next().question.bugs, "", "it goes on without them");
  }
});

test("WebSocket, blocked: what SSE tells of the token; another one goes by WebSocket first", async (context) => {
  const { fetch } = globalThis;
  context.after(() => (globalThis.fetch = fetch));
  const http = new Http();
  globalThis.fetch = http.fetch;
  const offered = [];
  class Socket {
    constructor(_, protocols) {
      offered.push(protocols.at(-1));
      queueMicrotask(() => this.onclose({ code: 1006, reason: "" }));
    }
    close() {}
  }
  const asked = [1, 2, 3, 4];
  const options = { transport: undefined, WebSocket: Socket };
  const { feed } = await start({ ...options, token: () => `T.${asked.shift()}` });
  await clock.advance(750);
  await import("../client-fallback.js");
  await clock.advance(1500);
  http.next().answer({ error: "invalid token: expired" }, 401, "application/json", gateway);
  await flow();
  await clock.advance(0);
  assert.deepEqual(offered, ["bugfeed.bearer.T.1", "bugfeed.bearer.T.2", "bugfeed.bearer.T.4"]);
  feed.close();
  const fixed = await start({ ...options, token: "T.9" });
  await clock.advance(2250);
  http.next().answer({ error: "invalid token: expired" }, 401, "application/json", gateway);
  await flow();
  assert.equal(fixed.feed.state, "closed");
});

test("a WebSocket that is tried beside SSE has the token, too", async (context) => {
  const { fetch } = globalThis;
  context.after(() => (globalThis.fetch = fetch));
  const http = new Http();
  globalThis.fetch = http.fetch;
  const tokens = [];
  const socket = (_, __, token) => (tokens.push(token), { send() {}, close() {} });
  const on = { open: () => link.send({ command: "hello", heartbeat: 30 }), message() {}, close() {} };
  const link = fallback(socket, false)("ws://gateway.test/", on, "T.1");
  await flow();
  const stream = http.next();
  stream.open();
  stream.say({ command: "heartbeat", cursor: "E.1" });
  await clock.advance(45_000);
  link.close();
  assert.deepEqual(tokens, ["T.1"]);
});

test("before a token expires, another one goes into the session, and nobody notices", async () => {
  const tokens = ["T.1", "T.2", "T.3"];
  const socket = (...how) => ({ ...transport(...how), name: "websocket" });
  const { feed, told } = await start({ heartbeat: 300, token: async () => tokens.shift(), transport: socket });
  const [link] = links;
  link.on.open();
  hello({ heartbeat: 300, expires: "2026-01-01T00:10:00" });
  subscribed();
  const before = told.length;
  await clock.advance(9 * 60_000 - 1);
  assert.equal(link.sent.length, 2);
  await clock.advance(1);
  assert.deepEqual(link.sent[2], { command: "hello", heartbeat: 300, token: "T.2" });
  hello({ heartbeat: 300, cursor: "E.2", expires: "2026-01-01T01:09:00.5" });
  assert.deepEqual([feed.state, feed.head, told.length], ["open", "E.1", before]);
  link.update(1, 5);
  assert.equal(told.length, before + 1, "the session goes on");
  link.on.close({ code: 1006, reason: "who is T.2?" });
  assert.match(told.at(-1), /who is …\?/);
  // What was to be renewed is not there any more.
  await clock.advance(750);
  await clock.advance(3_600_000);
  assert.equal(link.sent.length, 3);
});

test("no token is renewed that is a text, expires at once, by a date that is none, or by SSE", async () => {
  const socket = (name) => (...how) => ({ ...transport(...how), name });
  for (const [token, expires, name] of [
    ["T.1", "2026-01-01T00:10:00", "websocket"],
    [() => "T.1", "2026-01-01T00:00:09", "websocket"],
    [() => "T.1", "2025-01-01T00:00:00", "websocket"],
    [() => "T.1", "soon", "websocket"],
    [() => "T.1", undefined, "websocket"],
    [() => "T.1", 7, "websocket"],
    [() => "T.1", "2026-01-01T00:10:00", "sse"],
  ]) {
    await start({ heartbeat: 300, token, transport: socket(name) });
    links.at(-1).on.open();
    hello({ heartbeat: 300, expires });
    subscribed();
    await clock.advance(12 * 60_000);
    assert.equal(links.at(-1).sent.filter(({ command }) => command === "hello").length, 1, `${expires} ${name}`);
    clock.remove();
    clock = new Clock();
  }
});

test("a renewal that fails costs nothing: the session goes on until its token expires", async () => {
  let asked = 0;
  const socket = (...how) => ({ ...transport(...how), name: "websocket" });
  const token = () => (asked++ ? Promise.reject(new Error("the login is away")) : "T.1");
  const { feed, told } = await start({ heartbeat: 300, token, transport: socket });
  links[0].on.open();
  hello({ heartbeat: 300, expires: "2026-01-01T00:10:00" });
  subscribed();
  const before = told.length;
  await clock.advance(9.5 * 60_000);
  assert.deepEqual([asked, feed.state, told.length, links[0].sent.length], [2, "open", before, 2]);
});

test("pages share a connection with those of the same token only, and its name tells nobody the token", async (context) => {
  const own = ["navigator", "BroadcastChannel", "document"].map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  const locked = [];
  class Named extends Locks {
    request(name, ...more) {
      locked.push(name);
      return super.request(name, ...more);
    }
  }
  const world = { navigator: { locks: new Named() }, BroadcastChannel: Channel, document: Object.assign(new EventTarget(), { hidden: false }) };
  for (const [name, value] of Object.entries(world)) Object.defineProperty(globalThis, name, { value, configurable: true });
  context.after(() => {
    for (const [name, was] of own) was ? Object.defineProperty(globalThis, name, was) : delete globalThis[name];
  });
  const upstreams = [];
  const upstream = (_, __, token) => (upstreams.push(token), { send() {}, close() {} });
  const page = async (token) => {
    const http = new Http();
    const { feed } = await start({ token, transport: shared("sse", upstream, http.fetch) });
    // The name of what is shared is reckoned by another thread.
    clock.remove();
    for (let tries = 0; tries < 1000 && !http.requests.length; tries++) {
      await settled();
      await clock.advance(0);
    }
    const request = http.next();
    assert.equal(request.headers.authorization, token && `Bearer ${token}`);
    request.answer({ changes: [], cursor: "E.1" });
    await flow();
    return feed;
  };
  for (const token of [SECRET, "T.2", SECRET, undefined]) await page(token);
  assert.deepEqual(upstreams, [SECRET, "T.2", undefined], "who leads");
  assert.deepEqual([locked.length, new Set(locked).size, locked[0] === locked[2]], [4, 3, true]);
  assert.ok(!locked.join().includes(SECRET) && !locked.join().includes("T.2"));
  for (const feed of feeds) feed.close();
  await flow();
});
