// What the conversations of ../conformance do not show: loops, storage, signals, the browser's events, errors.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
// The module that the client loads when it has reason to: how long that takes is not the clock's affair.
import "../client-queue.js";
import { Clock, settled } from "./support.mjs";

// Node has neither; the client looks for them when it is loaded.
const page = new EventTarget();
globalThis.document = Object.assign(new EventTarget(), { hidden: false });
globalThis.addEventListener = page.addEventListener.bind(page);
const { Bugfeed, BugfeedError } = await import("../bugfeed.js");
const { links, memory, open, transport } = await import("./links.mjs");

let clock;
beforeEach(() => {
  clock = new Clock();
  links.length = 0;
});
afterEach(() => clock.remove());

test("bugs that are subscribed one by one are resumed together", async () => {
  const feed = new Bugfeed("ws://gateway.test/", { transport, cursor: "E.42" });
  await settled();
  links[0].on.open();
  for (const bug of [1, "2", [3, " 4 "]]) feed.subscribe(bug);
  feed.unsubscribe(2);
  await settled();
  assert.deepEqual(JSON.parse(JSON.stringify(links[0].sent.slice(1))), [
    { command: "subscribe", bugs: [1, 3, 4], cursor: "E.42" },
  ]);
  feed.close();
});

test("a date begins in place of a cursor, whatever is stored; from the reply on there is one", async () => {
  const storage = memory();
  storage.setItem("page", "E.42");
  const options = { bugs: [1], transport, storage, key: "page", cursor: "since:2014-04-03T21:13:45" };
  const feed = new Bugfeed("ws://gateway.test/", options);
  const seen = [];
  for (const type of ["change", "gap"]) feed.addEventListener(type, () => seen.push(type));
  const asked = async () => {
    await settled();
    links.at(-1).on.open();
    links.at(-1).say({ command: "hello", result: "ok", heartbeat: 30, cursor: "E.50" });
    return JSON.parse(JSON.stringify(links.at(-1).sent.at(-1)));
  };
  assert.deepEqual(await asked(), { command: "subscribe", bugs: [1], since: "2014-04-03T21:13:45" });
  links[0].say({ command: "subscribe", result: "ok", count: 1, cursor: "E.7" });
  assert.deepEqual([feed.replay, feed.cursor, storage.values.get("page")], [null, "E.7", "E.7"]);
  links[0].update(1, 8);
  links[0].on.close({ code: 1006 });
  feed.reconnect();
  assert.deepEqual(await asked(), { command: "subscribe", bugs: [1], cursor: "E.8" });
  feed.close();
  // No verdict, and no gap for that.
  assert.deepEqual(seen, ["change"]);
});

test("a connection that breaks before the reply to a date asks by date again", async () => {
  const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], transport, cursor: "since:2014-04-03" });
  await settled();
  for (let attempt = 0; attempt < 2; attempt++) {
    links.at(-1).on.open();
    assert.equal(links.at(-1).sent.at(-1).since, "2014-04-03");
    links.at(-1).on.close({ code: 1006 });
    feed.reconnect();
  }
  feed.close();
});

test("where there is no WebSocket, the error says what to do", () => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  try {
    const message = /npm i ws; import {WebSocket} from 'ws'; pass {WebSocket}$/;
    assert.throws(() => new Bugfeed("ws://gateway.test/"), { name: "TypeError", message });
  } finally {
    if (WebSocket) globalThis.WebSocket = WebSocket;
  }
});

test("an aborted signal closes the feed, also one that was aborted before", async () => {
  const ends = new AbortController();
  const { feed, link } = await open({ signal: ends.signal });
  ends.abort();
  assert.equal(feed.state, "closed");
  assert.ok(link.ended);
  const late = new Bugfeed("ws://gateway.test/", { transport, signal: ends.signal });
  await settled();
  assert.deepEqual([late.state, links.length], ["closed", 1]);
});

test("a feed that is closed while it connects leaves no connection behind", async () => {
  const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], transport });
  const states = [];
  feed.addEventListener("state", ({ detail }) => {
    states.push(detail.state);
    if (detail.state === "connecting") feed.close();
  });
  await settled();
  await clock.advance(60_000);
  assert.deepEqual([states, links.map(({ ended }) => ended)], [["connecting", "closed"], [true]]);
});

test("a feed that is closed at once never connects", async () => {
  new Bugfeed("ws://gateway.test/", { transport }).close();
  await settled();
  assert.equal(links.length, 0);
});

test("states are told, with the reason and the delay", async () => {
  const states = [];
  const feed = new Bugfeed("ws://gateway.test/", { transport });
  feed.addEventListener("state", ({ detail }) => states.push(detail));
  await settled();
  links[0].on.close({ code: 1006, reason: "refused" });
  feed.close();
  feed.close();
  assert.deepEqual(states, [
    { state: "connecting" },
    { state: "waiting", reason: "refused", delay: 750 },
    { state: "closed" },
  ]);
});

test("when the network is back or the page is looked at, nobody waits", async () => {
  const { feed, link } = await open();
  link.on.close({ code: 1006 });
  document.hidden = true;
  document.dispatchEvent(new Event("visibilitychange"));
  assert.equal(feed.state, "waiting");
  document.hidden = false;
  document.dispatchEvent(new Event("visibilitychange"));
  assert.equal(feed.state, "connecting");
  links.at(-1).on.close({ code: 1006 });
  page.dispatchEvent(new Event("online"));
  assert.equal(links.length, 3);
  await clock.advance(10_000);
  assert.equal(links.length, 3, "no second connection by the old timer");
  links.at(-1).on.open();
  links.at(-1).say({ command: "goaway", retry_after_ms: 2000, cursor: null });
  links.at(-1).on.close({ code: 1012 });
  page.dispatchEvent(new Event("online"));
  assert.equal(feed.state, "waiting", "the gateway's delay is kept");
  feed.close();
  page.dispatchEvent(new Event("online"));
  assert.equal(links.length, 3);
});

test("a button ends the wait, also one that the gateway asked for; and does nothing else", async () => {
  const { feed, link } = await open();
  assert.deepEqual([feed.welcome.heartbeat, feed.welcome.cursor], [30, "E.1"]);
  feed.reconnect();
  assert.equal(links.length, 1);
  link.say({ command: "goaway", retry_after_ms: 60_000, cursor: null });
  link.on.close({ code: 1012 });
  feed.reconnect();
  feed.reconnect();
  assert.deepEqual([feed.state, links.length], ["connecting", 2]);
  await clock.advance(14_999);
  assert.equal(feed.state, "connecting", "the old timer is gone");
  feed.close();
  feed.reconnect();
  assert.deepEqual([feed.state, links.length], ["closed", 2]);
});

test("an open connection is asked for a sign of life then, and is dead after 5 s without", async () => {
  const { feed, link } = await open();
  page.dispatchEvent(new Event("online"));
  assert.deepEqual(link.sent.at(-1), { command: "version" });
  await clock.advance(4999);
  link.say({ command: "version", result: "ok", version: "0.1.0" });
  await clock.advance(74_999);
  assert.equal(feed.state, "open");
  page.dispatchEvent(new Event("online"));
  await clock.advance(5000);
  assert.equal(feed.state, "waiting");
  assert.ok(link.ended);
  feed.close();
});

test("a storage that fails is an error, and changes go on", async () => {
  const errors = [];
  const setItem = () => {
    throw new Error("quota exceeded");
  };
  const { feed, link } = await open({ storage: { getItem: () => null, setItem }, key: "k" });
  feed.addEventListener("error", ({ detail }) => errors.push(detail.message));
  const changes = [];
  feed.addEventListener("change", ({ detail }) => changes.push(detail.bug));
  await settled();
  assert.equal(errors.length, 1, "that of E.1 waited for somebody");
  link.update(1, 5);
  link.update(2, 6);
  assert.deepEqual(changes, [1, 2]);
  assert.match(errors[0], /quota exceeded/);
  feed.close();
});

test("a transport that cannot even begin ends the feed", async () => {
  const feed = new Bugfeed("ws://gateway.test/", {
    transport: () => {
      throw new DOMException("insecure", "SecurityError");
    },
  });
  const failed = new Promise((resolve) => feed.addEventListener("error", resolve));
  assert.match((await failed).detail.message, /insecure/);
  assert.equal(feed.state, "closed");
});

test("addresses", () => {
  const url = (text) => {
    const feed = new Bugfeed(text, { transport });
    feed.close();
    return feed.url;
  };
  assert.equal(url("wss://bugs.test"), "wss://bugs.test/");
  assert.equal(url("https://bugs.test/kde/"), "wss://bugs.test/kde/");
  assert.equal(url(new URL("http://127.0.0.1:8844/")), "ws://127.0.0.1:8844/");
  globalThis.location = { href: "https://bugs.test/page?x" };
  assert.equal(url("/feed/"), "wss://bugs.test/feed/");
  delete globalThis.location;
  for (const bad of ["bugs.test", "ftp://bugs.test/", "", "/feed/"]) assert.throws(() => url(bad), TypeError, bad);
});

test("arguments that are none", async () => {
  const { feed } = await open();
  for (const bad of [0, -1, 1.5, "x", "", "1e3", 2 ** 53, null, undefined, true, {}, NaN]) {
    assert.throws(() => feed.subscribe(9, bad), RangeError, String(bad));
    assert.throws(() => feed.unsubscribe(bad), RangeError, String(bad));
  }
  assert.deepEqual(feed.bugs, [1, 2, 3]);
  feed.close();
  const make = (options) => () => new Bugfeed("ws://gateway.test/", { transport, ...options });
  for (const heartbeat of [0, 301, 1.5, "30", NaN]) assert.throws(make({ heartbeat }), RangeError);
  assert.throws(make({ storage: memory() }), { name: "TypeError", message: /key/ });
  assert.throws(make({ transport: undefined, WebSocket: null }), { name: "TypeError", message: /ws/ });
});
