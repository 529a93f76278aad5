// What is watched, on the real client library, over a transport without a network. Run: node --test tests/page/
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Bugfeed } from "../../clients/js/bugfeed.js";
// What the library loads by itself when it has reason to.
import "../../clients/js/client-queue.js";
import "../../clients/js/client-token.js";
import { repeats } from "../../crates/gateway/src/http/page/logic.js";
import { Watch } from "../../crates/gateway/src/http/page/watch.js";

const T1 = "2014-04-03T21:13:45";
const T2 = "2014-04-03T21:13:46";

let timers;
let clock;
beforeEach(() => {
  timers = [];
  clock = 0;
  globalThis.setTimeout = (then, ms) => timers.push({ then, ms });
  globalThis.clearTimeout = (timer) => delete timers[timer - 1];
});
const settled = () => new Promise((done) => setImmediate(done));

/** A page's watch, and the gateway that answers it by hand. */
function start(begin = {}, shown = []) {
  const gateway = { name: "websocket", links: [], sent: [] };
  const seen = { changes: [], gaps: [], errors: [], fallBacks: [], ended: [] };
  const transport = (url, on, token) => {
    gateway.links.push(on);
    gateway.token = token;
    gateway.says = (...messages) => messages.forEach((message) => on.message(JSON.stringify(message)));
    return { name: gateway.name, send: (command) => gateway.sent.push(command), close: () => (gateway.closed = true) };
  };
  const fallBack = (proven) => seen.fallBacks.push(proven);
  const feeds = [];
  class Feed extends Bugfeed {
    constructor(...args) {
      super(...args);
      feeds.push(this);
    }
  }
  const watch = new Watch({ Bugfeed: Feed, transport, fallBack, token: () => gateway.next ?? null }, "ws://h/", { bugs: [], cursor: null, ...begin }, () => clock, {
    state: () => {},
    watched: () => {},
    change: ({ bug, when, kind }) => seen.changes.push(`${bug} ${when} ${kind}`),
    gap: (bugs) => seen.gaps.push(bugs),
    error: (text) => seen.errors.push(text),
    ended: ({ code, status }) => seen.ended.push(code ?? status),
    shown: () => repeats(shown),
  });
  gateway.opens = async () => {
    await settled();
    gateway.sent = [];
    gateway.links.at(-1).open();
    await settled();
    gateway.says(HELLO);
  };
  return { watch, gateway, seen, feeds };
}

const HELLO = { command: "hello", result: "ok", version: "1.2.3", feed: "default", heartbeat: 15, cursor: "E.9" };
const VERSION = { command: "version", result: "ok", version: "1.2.3" };
const FENCE = { command: "subscriptions", result: "ok", bugs: [] };
const ok = (about) => ({ command: "subscribe", result: "ok", count: 1, ...about });
const update = (bug, when, cursor) => ({ command: "update", bug, when, cursor });

test("a resume: what comes before the fence's answer is catch-up, what comes after it is live", async () => {
  const { watch, gateway, seen } = start({ bugs: [1], cursor: "E.5" });
  await gateway.opens();
  assert.deepEqual(gateway.sent.slice(0, 3), [
    { command: "hello", heartbeat: 15 },
    { command: "subscribe", bugs: [1], since: undefined, cursor: "E.5" },
    { command: "subscriptions" },
  ]);
  gateway.says(ok({ replay: "complete", cursor: "E.5" }), update(1, T1, "E.7"), FENCE, update(1, T2, "E.8"));
  assert.deepEqual(seen.changes, [`1 ${T1} catchup`, `1 ${T2} live`]);
  assert.deepEqual(watch.verdict, { replay: "complete", count: 1 });
  assert.deepEqual([...watch.active], [1]);
  assert.equal(watch.cursor, "E.8");
  assert.equal(watch.tap.version, "1.2.3");
});

test("a gap is told with its bugs", async () => {
  const { watch, gateway, seen } = start({ bugs: [1, 2], cursor: "D.5" });
  await gateway.opens();
  gateway.says(ok({ replay: "gap", cursor: "E.9" }), FENCE);
  assert.deepEqual(seen.gaps, [[1, 2]]);
  assert.equal(watch.verdict.replay, "gap");
});

test("a catch-up by date is asked for behind the subscription, and repeats nothing that is shown", async () => {
  const { watch, gateway, seen } = start({}, [{ bug: 1, when: T1 }]);
  await gateway.opens();
  gateway.says(VERSION);
  gateway.sent = [];
  watch.subscribe([1, 2], T1);
  await settled();
  assert.deepEqual(gateway.sent.map(({ command, bugs, since }) => [command, bugs, since]), [
    ["subscribe", [1, 2], undefined],
    ["subscribe", [1, 2], T1],
    ["subscriptions", undefined, undefined],
  ]);
  gateway.says(ok({ cursor: "E.9" }), ok({ cursor: "E.9" }), update(1, T1, "E.9"), update(1, T1, "E.9"), FENCE);
  gateway.says(update(1, T1, "E.10"));
  assert.deepEqual(seen.changes, [`1 ${T1} catchup`, `1 ${T1} live`], "the second of two in one second is new");
  assert.equal(watch.verdict.replay, null, "nothing was resumed");
});

test("a catch-up by date that was cut off is asked for again, without the bugs that are gone by then", async () => {
  const { watch, gateway } = start();
  watch.subscribe([1, 2], T1);
  watch.subscribe([3], T2);
  await gateway.opens();
  const asked = () => gateway.sent.filter(({ since }) => since).map(({ bugs, since }) => [bugs, since]);
  assert.deepEqual(asked(), [[[1, 2], T1], [[3], T2]]);
  gateway.says(ok({ cursor: "E.9" }), ok({ cursor: "E.9" }));
  gateway.links.at(-1).close({ code: 1006 });
  assert.equal(watch.state, "waiting");
  watch.unsubscribe([2, 3]);
  watch.retry();
  await gateway.opens();
  assert.deepEqual(asked(), [], "the first was answered, the other's bug is gone");

  watch.subscribe([4], T2);
  await settled();
  gateway.links.at(-1).close({ code: 1006 });
  watch.retry();
  await gateway.opens();
  assert.deepEqual(asked(), [[[4], T2]]);
});

test("a connection that breaks within a catch-up takes nothing into the next", async () => {
  const { watch, gateway, seen } = start({ bugs: [1], cursor: "E.5" });
  await gateway.opens();
  gateway.says(ok({ replay: "complete", cursor: "E.5" }), update(1, T1, "E.6"));
  gateway.links.at(-1).close({ code: 1006 });
  watch.retry();
  await gateway.opens();
  assert.equal(gateway.sent.filter(({ command }) => command === "version").length, 1, "the old ping is none any more");
  gateway.says(ok({ replay: "complete", cursor: "E.6" }), FENCE, update(1, T1, "E.7"));
  assert.deepEqual(seen.changes, [`1 ${T1} catchup`, `1 ${T1} live`]);
});

test("the answers to what the page asked are not taken for the library's", async () => {
  const { watch, gateway, seen } = start({ bugs: [1] });
  await gateway.opens();
  gateway.says(ok({ cursor: "E.9" }));
  watch.subscribe([1], T1);
  await settled();
  watch.subscribe([2]);
  await settled();
  gateway.says(ok({ cursor: "E.9" }), FENCE, { command: "subscribe", result: "error", error: "full" });
  assert.deepEqual([watch.bugs, seen.errors], [[1], ["full"]]);
});

test("retrying takes cursor and bugs along, and the old connection is left for good", async () => {
  const { watch, gateway, seen } = start({ bugs: [1], cursor: "E.5" });
  await gateway.opens();
  gateway.says(ok({ replay: "complete", cursor: "E.5" }), FENCE, update(1, T1, "E.7"));
  const old = gateway.links.at(-1);
  watch.retry();
  assert.equal(gateway.closed, true);
  await gateway.opens();
  old.message(JSON.stringify(update(1, T2, "E.8")));
  old.close({ code: 1000 });
  assert.equal(seen.changes.length, 1);
  assert.equal(gateway.links.length, 2);
  assert.equal(gateway.sent[1].cursor, "E.7");
  assert.equal(watch.state, "open");
});

test("what cannot be mended by trying again is said, and tried again when somebody wants to", async () => {
  const { watch, gateway, seen } = start({ bugs: [1], cursor: "E.5" });
  await gateway.opens();
  gateway.links.at(-1).close({ code: 1009, reason: "too long" });
  assert.equal(watch.state, "closed");
  assert.match(watch.why, /1009.*too long/);
  assert.equal(seen.errors.length, 1);
  watch.retry();
  await gateway.opens();
  assert.equal(watch.state, "open");
  assert.equal(gateway.sent[1].cursor, "E.5");
});

test("a refused subscription is said once and not kept", async () => {
  const { watch, gateway, seen } = start();
  await gateway.opens();
  watch.subscribe([1, 2]);
  await settled();
  gateway.says({ command: "subscribe", result: "error", error: "too many subscriptions" });
  assert.deepEqual(seen.errors, ["too many subscriptions"]);
  assert.deepEqual(watch.bugs, []);
});

test("who watches nothing any more begins anew with the next bug", async () => {
  const { watch, gateway } = start({ bugs: [1], cursor: "E.5" });
  await gateway.opens();
  gateway.says(ok({ replay: "complete", cursor: "E.5" }), FENCE);
  watch.unsubscribe([1]);
  assert.equal(watch.cursor, null);
  gateway.links.at(-1).close({ code: 1006 });
  watch.subscribe([2]);
  watch.retry();
  await gateway.opens();
  assert.equal(gateway.sent[1].cursor, undefined, "the old cursor would bring what nobody asked for");
});

test("round trip and heartbeats are noted; one ping at a time", async () => {
  const { watch, gateway } = start();
  clock = 1_000;
  await gateway.opens();
  const pings = () => gateway.sent.filter(({ command }) => command === "version").length;
  assert.equal(pings(), 1, "at once");
  watch.tap.ping();
  assert.equal(pings(), 1);
  clock = 1_042;
  gateway.says(VERSION);
  assert.equal(watch.tap.roundTripMs, 42);
  watch.tap.ping();
  assert.equal(pings(), 2);
  clock = 5_000;
  gateway.says({ command: "heartbeat", cursor: null });
  assert.equal(watch.tap.heartbeatAt, 5_000);
  gateway.links.at(-1).close({ code: 1012 });
  assert.equal(watch.tap.roundTripMs, null);
});

test("another way than WebSocket is looked for when two attempts in a row were in vain", async () => {
  const { watch, gateway, seen } = start();
  const fails = async () => {
    gateway.links.at(-1).close({ code: 1006 });
    watch.retry();
    await settled();
  };
  await settled();
  await fails();
  assert.deepEqual(seen.fallBacks, []);
  await fails();
  assert.deepEqual(seen.fallBacks, [false]);
  await gateway.opens();
  await fails();
  assert.deepEqual(seen.fallBacks, [false], "it may be the gateway that is away");
  await fails();
  assert.deepEqual(seen.fallBacks, [false, true]);
});

test("without WebSocket a catch-up lasts until the next heartbeat, and leaves nothing out", async () => {
  const { watch, gateway, seen } = start({ bugs: [1], cursor: "E.5" }, [{ bug: 1, when: T1 }]);
  gateway.name = "sse";
  await gateway.opens();
  assert.equal(gateway.sent.some(({ command }) => command === "subscriptions"), false);
  gateway.says(ok({ replay: "complete", cursor: "E.5" }), update(1, T1, "E.6"));
  gateway.says({ command: "heartbeat", cursor: "E.6" }, update(1, T1, "E.7"));
  assert.deepEqual(watch.verdict, { replay: "complete", count: 1 });
  watch.subscribe([1], T1);
  await settled();
  gateway.says(ok({ cursor: "E.7" }), update(1, T1, "E.7"));
  assert.deepEqual(seen.changes, ["catchup", "live", "catchup"].map((kind) => `1 ${T1} ${kind}`));
});

test("a gateway that wants a token: that is told, and the next attempt has it, with the same bugs", async () => {
  const { watch, gateway, seen } = start({ bugs: [1, 2], cursor: "E.5" });
  await gateway.opens();
  assert.equal(gateway.token, undefined);
  gateway.says({ command: "subscribe", result: "error", error: "a token is needed: send it in hello, or as Authorization: Bearer" });
  assert.deepEqual([watch.state, watch.bugs, seen.ended], ["closed", [1, 2], [4401]]);
  gateway.next = "T.1";
  watch.retry();
  await gateway.opens();
  assert.equal(gateway.token, "T.1");
  assert.deepEqual(gateway.sent[1], { command: "subscribe", bugs: [1, 2], since: undefined, cursor: "E.5" });
  gateway.says(ok({ replay: "complete", cursor: "E.5" }), FENCE, update(1, T1, "E.7"));
  gateway.links.at(-1).close({ code: 4401, reason: "token expired; reconnect with a new one" });
  assert.deepEqual([watch.state, watch.cursor, seen.ended], ["closed", "E.7", [4401, 4401]]);
});

test("nonsense from the gateway does no harm", async () => {
  const { gateway, seen } = start();
  await gateway.opens();
  for (const text of ["", "null", "[]", "42", "{}", '{"command":7}', '{"command":"subscribe"}', '{"command":"update"}']) {
    gateway.links.at(-1).message(text);
  }
  assert.deepEqual(seen, { changes: [], gaps: [], errors: [], fallBacks: [], ended: [] });
});

test("while the gateway hears nothing the state is paused, on whatever connection", async () => {
  const { watch, gateway, feeds } = start({ bugs: [1] });
  // As the library does it: the property first, and an event where it changes.
  const hears = (state, since) => {
    feeds.at(-1).feedState = state;
    feeds.at(-1).dispatchEvent(new CustomEvent("feed", { detail: { state, since } }));
  };
  const shown = () => [watch.shownState, watch.pausedSince];
  await gateway.opens();
  assert.deepEqual(shown(), ["open", null]);
  hears("paused", T1);
  assert.deepEqual(shown(), ["paused", T1]);
  hears("live", T2);
  assert.deepEqual(shown(), ["open", null]);
  hears("paused");
  assert.deepEqual(shown(), ["paused", null], "the notice was lost, a heartbeat told it: its time is not known");
  hears("live");
  hears("paused", T2);
  gateway.links.at(-1).close({ code: 1006 });
  assert.deepEqual(shown(), ["waiting", null]);
  await gateway.opens();
  watch.retry();
  await gateway.opens();
  assert.deepEqual(shown(), ["open", null], "a feed of its own, which was told nothing");
});

test("what is kept for the next visit, or for a retry, never lies beyond a gap that is told later", async () => {
  const { watch, gateway } = start({ bugs: [1], cursor: "E.5" });
  await gateway.opens();
  gateway.says(ok({ replay: "complete", cursor: "E.5" }), FENCE, update(1, T1, "E.7"));
  assert.equal(watch.cursor, "E.7");
  gateway.says({ command: "gap", cursor: "E.9", spread_ms: 20_000 }, { command: "heartbeat", cursor: "E.10" });
  await settled();
  assert.equal(watch.cursor, "E.7");
  watch.retry();
  await gateway.opens();
  assert.equal(gateway.sent[1].cursor, "E.7");
});
