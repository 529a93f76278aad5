// Tokens, against the real gateway: how they travel, what becomes of a session when they expire or are taken away.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Bugfeed, webSocket } from "../bugfeed.js";
import { eventStream, longPoll } from "../client-fallback.js";
import { Gateway, binary } from "./support.mjs";

const ws = await import("ws").catch(() => null);
const ways = { sse: eventStream(), "long-poll": longPoll() };
if (globalThis.WebSocket) ways["the runtime's WebSocket"] = webSocket(globalThis.WebSocket);
if (ws) ways["`ws`"] = webSocket(ws.WebSocket);
const missing = !binary && "no gateway: set BUGFEED_TEST_BIN, or run cargo build";
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

const heard = (feed, type, wanted = () => true) =>
  new Promise((resolve) => feed.addEventListener(type, ({ detail }) => wanted(detail) && resolve(detail)));
const inSeconds = (seconds) => new Date(Date.now() + 1000 * seconds).toISOString().slice(0, 19);

test("tokens, against the real gateway", { skip: missing, timeout: 120_000 }, async (context) => {
  let gateway;
  let good;
  let file;
  const entries = new Map();
  /** What stands in the file now. The gateway looks at it each second. */
  const write = () => writeFileSync(file, [...entries.values()].join("\n"));
  const make = (name, ...options) => {
    const { token, entry } = Gateway.token(name, ...options);
    entries.set(name, entry);
    return token;
  };
  const http = (path, token, more) =>
    fetch(gateway.url.replace("ws", "http") + path, { headers: { authorization: `Bearer ${token}` }, ...more });
  /** Until the gateway has read the file again. */
  const known = async (token) => {
    while ((await http("changes?bugs=", token)).status !== 200);
  };
  before(async () => {
    good = make("good", "--bugs", "1,2");
    gateway = await Gateway.start(({ dir }) => {
      file = join(dir, "tokens.toml");
      write();
      return ["--tokens", file];
    });
  });
  after(() => gateway?.end());
  const feeds = [];
  context.afterEach(() => feeds.splice(0).forEach((feed) => feed.close()));
  const open = (options) => {
    const feed = new Bugfeed(gateway.url, { bugs: [1], heartbeat: 1, ...options });
    feeds.push(feed);
    return feed;
  };

  for (const [name, transport] of Object.entries(ways)) {
    await context.test(`${name}: with a token a change comes; bugs that it is not for are refused`, async () => {
      const feed = open({ token: good, transport });
      await heard(feed, "subscribed");
      const change = heard(feed, "change");
      gateway.touch(1);
      assert.equal((await change).bug, 1);
      const refused = heard(feed, "error");
      feed.subscribe(7);
      const { message, bugs, final } = await refused;
      assert.match(message, /this token is not for bug 7/);
      assert.deepEqual([bugs, final, feed.bugs], [[7], false, [1]]);
    });

    await context.test(`${name}: without a token, or with one that is not known, the feed ends and says why`, async () => {
      for (const [token, why] of [
        [undefined, /a token is needed/],
        ["bft_no", /refuses|known/],
      ]) {
        // What the runtime's own is refused with, nobody is told.
        if (token && name.startsWith("the runtime")) continue;
        const feed = open({ token, transport });
        const { message, final } = await heard(feed, "error");
        assert.deepEqual([final, feed.bugs], [true, [1]]);
        assert.match(message, why);
        assert.doesNotMatch(message, /bft_no/);
      }
    });
  }

  await context.test("a token that expires within a session: another one is asked for, and nothing is missed", async () => {
    const first = make("first", "--expires", inSeconds(3));
    const second = make("second");
    write();
    const tokens = [first, second];
    await known(second);
    const feed = open({ token: async () => tokens.shift(), transport: ways["`ws`"] });
    await heard(feed, "subscribed");
    assert.ok(feed.welcome.expires);
    const { reason, delay } = await heard(feed, "state", ({ state }) => state === "waiting");
    assert.deepEqual([reason, delay], ["token expired; reconnect with a new one", 0]);
    gateway.touch(1);
    assert.equal((await heard(feed, "change")).bug, 1);
    assert.deepEqual([tokens, feed.replay], [[], "complete"]);
  });

  await context.test("a token that is taken away ends the feed, whether another one could be had or not", async () => {
    const token = make("gone");
    write();
    await known(token);
    const feed = open({ token: () => token, transport: ways["`ws`"] });
    await heard(feed, "subscribed");
    const ended = heard(feed, "error");
    entries.delete("gone");
    write();
    const { code, final } = await ended;
    assert.deepEqual([code, final], [4403, true]);
  });

  await context.test("an EventSource of its own, with a ticket, which is good once", async () => {
    const { ticket } = await (await http("ticket", good, { method: "POST" })).json();
    const url = `${gateway.url.replace("ws", "http")}sse?bugs=1&ticket=${encodeURIComponent(ticket)}`;
    const first = await fetch(url);
    assert.deepEqual([first.status, first.headers.get("content-type")], [200, "text/event-stream"]);
    await first.body.cancel();
    assert.equal((await fetch(url)).status, 401);
  });
});
