// Plays the conversations of ../conformance, with a clock and a transport of its own.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { Bugfeed } from "../bugfeed.js";
// The modules that the client loads when it has reason to: how long that takes is not the script's affair.
import "../client-queue.js";
import "../client-token.js";
import { Clock, settled } from "./support.mjs";

const folder = new URL("../../conformance/cases/", import.meta.url);
export const sorted = (bugs) => [...bugs].sort((a, b) => a - b);
const normal = (message) => (Array.isArray(message.bugs) ? { ...message, bugs: sorted(message.bugs) } : message);

export class Script {
  begun = []; // Connections that the client opened and the server has not looked at.
  link = null;
  events = [];
  store = new Map();

  constructor(client) {
    this.client = client;
    this.clock = new Clock(client.random);
    this.tokens = client.tokens && [...client.tokens];
    if (client.cursor) this.store.set("key", client.cursor);
    this.start();
  }

  start() {
    const { heartbeat, bugs } = this.client;
    const feed = new Bugfeed("ws://gateway.test/", {
      bugs,
      heartbeat,
      token: this.tokens ? async () => (this.tokens.length > 1 ? this.tokens.shift() : this.tokens[0]) : this.client.token,
      key: "key",
      storage: { getItem: (key) => this.store.get(key) ?? null, setItem: (key, value) => this.store.set(key, value) },
      transport: (url, on, token) => {
        const link = { url, on, token, sent: [], ended: false };
        this.begun.push(link);
        return this.wire(link);
      },
    });
    this.feed = feed;
    const note = (event) => feed === this.feed && this.events.push(event);
    feed.addEventListener("change", ({ detail: { bug, when } }) => note({ change: bug, when }));
    feed.addEventListener("feed", ({ detail: { state } }) => note({ feed: state }));
    feed.addEventListener("gap", ({ detail: { bugs, all } }) => note({ gap: all ? "all" : sorted(bugs) }));
    feed.addEventListener("error", ({ detail }) => note({ error: detail }));
  }

  /** What the client's end of a connection is. */
  wire(link) {
    return {
      send: (command) => link.sent.push(normal(JSON.parse(JSON.stringify(command)))),
      close: () => (link.ended = true),
    };
  }

  /** Nothing may have happened that the script does not speak of. */
  quiet() {
    assert.equal(this.begun.length, 0, "the client has connected");
    assert.deepEqual(this.link?.sent ?? [], [], "the client has sent something");
    assert.ok(!this.link?.ended, "the client has ended the connection");
  }

  begin({ token } = {}) {
    this.link = this.begun.shift();
    assert.ok(this.link, "the client has not connected");
    assert.equal(this.link.token, token, "the connection's token");
  }

  steps = {
    accept: (_, step) => (this.begin(step), this.link.on.open()),
    ignore: (_, step) => this.begin(step),
    refuse: (status, step) => {
      const { gateway } = step;
      this.begin(step);
      // What transports make of an answer, the fallback's own tests show.
      const final = !!gateway && status >= 400 && status < 500 && ![408, 425, 429].includes(status);
      this.end({ status: status ?? undefined, code: 1006, reason: "refused", final });
    },
    receive: (message) => assert.deepEqual(this.link.sent.shift(), message),
    send: (message) => this.link.on.message(JSON.stringify(message)),
    send_text: (text) => this.link.on.message(text),
    close: (code, { reason }) => this.end({ code, reason }),
    drop: () => this.end({ code: 1006, reason: "" }),
    abandoned: () => {
      assert.ok(this.link?.ended, "the client has not ended the connection");
      // Whatever comes now must not count.
      this.link.on.message('{"command":"update","bug":1234,"when":"2014-04-03T21:13:45","cursor":"too.1"}');
      this.end({ code: 1006, reason: "" });
    },
    client: (action) => {
      const [[name, argument]] = Object.entries(action);
      if (name === "start_from_head") this.feed.cursor = this.feed.head;
      else this.feed[name](...[argument].flat());
    },
    advance_ms: (ms) => this.clock.advance(ms),
    waits_ms: async (ms) => {
      assert.equal(this.feed.state, "waiting");
      await this.clock.advance(ms - 1);
      this.quiet();
      await this.clock.advance(1);
      assert.equal(this.begun.length, 1, "the client has not connected");
    },
    events: (expected) => {
      const got = this.events.splice(0);
      const wanted = expected.map((event, index) => {
        // Of an error, the members named are compared; its text is the client's own.
        const [error, known] = [got[index]?.error, event.error];
        return error && known && Object.entries(known).every(([k, v]) => same(error[k], v)) ? { error } : event;
      });
      assert.deepEqual(got, wanted);
    },
    expect: (about) => {
      const got = {
        ...this.pick(about),
        ...(about.cursor === undefined ? {} : { cursor: this.store.get("key") ?? null }),
      };
      assert.deepEqual(got, about);
    },
    restart: () => {
      const { feed, link } = this;
      this.feed = this.link = null;
      this.start();
      feed.close();
      if (link) link.ended = true;
    },
  };

  pick(about) {
    const { state, protocol, replay, feedState, head, bugs, all } = this.feed;
    const known = { state, protocol, replay, feed: feedState, head, bugs: all ? "all" : sorted(bugs) };
    return Object.fromEntries(Object.keys(about).map((name) => [name, known[name]]));
  }

  end(why) {
    const { link } = this;
    this.link = null;
    link.on.close({ reason: "", ...why });
  }

  async run(step) {
    const [name, argument] = Object.entries(step)[0];
    if (["send", "send_text", "close", "drop", "client", "advance_ms", "waits_ms"].includes(name)) this.quiet();
    await this.steps[name](argument, step);
    await settled(this.clock.rounds);
  }
}

const same = (a, b) => JSON.stringify(Array.isArray(a) ? sorted(a) : a) === JSON.stringify(b);

/** Plays each case; `reason` says why one is skipped, if so. */
export const play = (name, make, reason = () => undefined) => {
  for (const file of readdirSync(folder).sort()) {
    const { why, client, steps } = JSON.parse(readFileSync(new URL(file, folder), "utf8"));
    const skip = reason(file.replace(".json", ""));
    test(`${name}${file.replace(".json", "")}: ${why}`, { skip }, async (context) => {
      const script = make(client, steps);
      context.after(() => script.clock.remove());
      await settled();
      for (const [index, step] of steps.entries()) {
        try {
          await script.run(step);
        } catch (error) {
          error.message = `step ${index + 1}, ${JSON.stringify(step)}: ${error.message}`;
          throw error;
        }
      }
      assert.deepEqual(script.events, [], "events that the script does not speak of");
      script.feed.close();
    });
  }
};
