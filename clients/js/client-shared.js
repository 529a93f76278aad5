// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * One connection for all pages of a browser that watch a feed: one page, the leader, holds it, for the bugs of all, and
 * rings for those that are concerned. Each asks for its own changes then, from its own cursor, and lets go of its connection
 * at once. So a ring that is lost, a leader that is closed or frozen, and a page that comes late cost time, never a change.
 * client-fallback.js loads this module in pages. What is public is in client-shared.d.ts.
 */

import { Poll } from "./client-fallback.js";

const world = globalThis;
/** How often the leader wants to hear from the gateway, in seconds; it passes that on. */
const BEAT_S = 10;
/** Without a sign of life for so long the leader's connection is dead, in ms… */
const SILENCE_MS = 25_000;
/** …and the leader itself, perhaps frozen by the browser, after so long, or up to half as long again. */
const STEAL_MS = 40_000;
/** How often a page asks unasked, in ms, so that its cursor does not grow old. */
const UNASKED_MS = 240_000;
/** How often one that can share no connection asks: while it is looked at, and otherwise. In ms. */
const ALONE_MS = [10_000, 45_000];
/** Questions begin no faster than this, in ms. */
const PACE_MS = 500;
/** How often is asked for a change that was rung for and is not there: another gateway may be a little behind. */
const TRIES = 4;

const ALL = "all";
const wire = (bugs) => (bugs.includes(ALL) ? ALL : bugs);

const alone = () => ALONE_MS[world.document?.hidden ? 1 : 0];

/** Asks, and holds no connection: what a page does that shares none. */
class Alone extends Poll {
  terms(asking) {
    const terms = super.terms(true);
    this.asking = asking;
    // What hears so seldom is no dead connection.
    this.heartbeat = 60;
    return terms;
  }

  pause(changes, more) {
    return this.asking || more ? PACE_MS : alone();
  }
}

/** Holds the connection. Tells the members, by `tell`, what they look for in `#hears`. */
class Leader {
  #members = new Map(); // Their bugs.
  #covered = new Set(); // The bugs that the connection was asked for.
  #asked = []; // Whom the questions that are not answered yet are for.
  #tell;
  #link;
  #isOpen = false;
  #goaway;
  #timer;

  constructor(url, token, upstream, tell) {
    this.#tell = tell;
    this.#heard();
    this.#link = upstream(url, {
      open: () => {
        this.#isOpen = true;
        this.#link.send({ command: "hello", heartbeat: BEAT_S });
        this.#cover([...this.#members.keys()]);
      },
      message: (json) => this.#received(JSON.parse(json)),
      close: (why) => this.#lost(why),
    }, token);
  }

  #heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost({ reason: "silence" }), SILENCE_MS);
  }

  #lost(why) {
    this.close();
    this.#tell({ lost: why, goaway: this.#goaway });
  }

  close() {
    clearTimeout(this.#timer);
    this.#link?.close();
  }

  join(member, bugs) {
    const known = this.#members.get(member);
    if (known?.join() === bugs.join()) return;
    this.#members.set(member, bugs);
    if (this.#isOpen) this.#cover([member]);
  }

  /** Its bugs may go on ringing, for nobody, until the next question. */
  leave(member) {
    this.#members.delete(member);
  }

  /** Asks for what is missing; those for whom it is get a ring when it is there, for what came before. */
  #cover(members) {
    const each = [...this.#members.values()].flat();
    const wanted = new Set(each.includes(ALL) ? [ALL] : each);
    const drop = [...this.#covered].filter((bug) => !wanted.has(bug));
    const bugs = [...wanted].filter((bug) => !this.#covered.has(bug));
    this.#covered = wanted;
    if (drop.length) this.#link.send({ command: "unsubscribe", bugs: wire(drop) });
    if (bugs.length) {
      this.#asked.push({ members, bugs });
      this.#link.send({ command: "subscribe", bugs: wire(bugs) });
    } else if (this.#asked.length) this.#asked.at(-1).members.push(...members);
    else this.#tell({ covers: members });
  }

  #received({ command, result, bug, when, state, spread_ms, retry_after_ms, ...more }) {
    this.#heard();
    if (command === "subscribe" && this.#asked.length) {
      const { members, bugs } = this.#asked.shift();
      if (result === "ok") return this.#tell({ covers: members });
      // More than one session may have: these ask by themselves.
      for (const bug of bugs) this.#covered.delete(bug);
      this.#tell({ alone: members });
    } else if (command === "update") this.#tell({ bug, when });
    else if (command === "gap") this.#tell({ ring: true, spread_ms });
    else if (command === "goaway") this.#goaway = retry_after_ms;
    else if (command === "heartbeat") this.#tell({ beat: true, state });
    else if (command === "feed") this.#tell({ notice: { command, state, ...more } });
  }
}

/** One page, or rather one feed of it. */
class Member extends Poll {
  isProof = false; // An answer of its own proves nothing of the connection that is shared.
  #id = world.crypto.randomUUID();
  #name;
  #upstream;
  #url;
  #token;
  #kind;
  #channel;
  #isIn = false; // It has had its first answer.
  #isAlone = false; // Its bugs are not the leader's.
  #again = false; // Somebody rang while it was asking.
  #missing = new Map(); // What was rung for and was not told of, how often…
  #tries = 0; // …by so many answers.
  #spread;
  #leader;
  #release;
  #waits;
  #timer;
  #over = new AbortController();

  constructor(url, on, fetch, token, identity, name, upstream) {
    super(url, on, fetch, token);
    this.#kind = name;
    this.#url = url;
    this.#token = token;
    this.#upstream = upstream;
    this.#name = `bugfeed 1 ${url}${identity}`;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hears(data);
    const leave = () => this.end({ reason: "the page was left" });
    // A page that is kept, or frozen, holds nothing; when it comes back, it connects anew.
    world.addEventListener?.("pagehide", leave, this.#over);
    world.document?.addEventListener("freeze", leave, this.#over);
  }

  get name() {
    return this.#kind;
  }

  terms() {
    return super.terms(true);
  }

  answer(replay, cursor, hello, about) {
    const before = `${[...this.bugs]}`;
    super.answer(replay, cursor, hello, { ...about, spread_ms: about.spread_ms ?? this.#spread });
    this.#spread = undefined;
    if (this.#isIn && before === `${[...this.bugs]}`) return;
    this.#say({ from: this.#id, bugs: [...this.bugs] });
    if (!this.#isIn) {
      this.#isIn = true;
      this.#alive();
      this.#queueUp();
    }
  }

  /** The leader's own messages are for itself, too. */
  #say(message) {
    this.#channel.postMessage(message);
    this.#hears(message);
  }

  closed() {
    if (this.#over.signal.aborted) return;
    this.#say({ from: this.#id });
    this.#channel.close();
    this.#over.abort();
    clearTimeout(this.#timer);
    this.#stopLeading();
    this.#waits?.abort();
  }

  // What the others say.

  #hears({ from, bugs, call, covers, alone, ring, bug, when, spread_ms, beat, state, notice, lost, goaway }) {
    if (from) bugs ? this.#leader?.join(from, bugs) : this.#leader?.leave(from);
    if (call && this.#isIn) this.#say({ from: this.#id, bugs: [...this.bugs] });
    if (!this.#isIn) return;
    if (beat || ring || bug || covers) this.#alive();
    if (beat) this.say({ command: "heartbeat", cursor: null, state });
    if (notice) this.say(notice);
    const [isCovered, isAlone] = [covers, alone].map((members) => members?.includes(this.#id));
    if (isCovered || isAlone) {
      this.#isAlone = isAlone;
      this.#ask();
    }
    if (bug && (this.bugs.has(bug) || this.bugs.has(ALL))) {
      this.#count(bug, when, 1);
      this.#tries = 0;
      this.#ask();
    }
    if (ring) {
      this.#spread = spread_ms;
      this.#ask();
    }
    if (lost) {
      // Not all at the same moment.
      if (goaway !== undefined) this.say({ command: "goaway", retry_after_ms: goaway * (1 + Math.random()) });
      this.end(lost);
    }
  }

  #count(bug, when, more) {
    const change = `${bug} ${when}`;
    const count = (this.#missing.get(change) ?? 0) + more;
    if (count > 0) this.#missing.set(change, count);
    else this.#missing.delete(change);
  }

  /** Asks soon; if it is asking just now, once more. */
  #ask() {
    if (this.pending) this.#again = true;
    else this.next(Math.max(0, this.began + PACE_MS - Date.now()));
  }

  pause(changes, more) {
    for (const { bug, when } of changes) this.#count(bug, when, -1);
    const isNow = this.#again || more;
    this.#again = false;
    if (isNow) return PACE_MS;
    if (this.#missing.size && this.#tries < TRIES) return PACE_MS * 2 ** this.#tries++;
    this.#missing.clear();
    return this.#isAlone ? alone() : UNASKED_MS * (1 + Math.random() / 4);
  }

  // Who leads.

  #alive() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#steal(), STEAL_MS * (1 + Math.random() / 2));
  }

  #queueUp() {
    this.#waits = new AbortController();
    this.#lock({ signal: this.#waits.signal });
  }

  /** The leader is silent: frozen, perhaps. */
  #steal() {
    this.#alive();
    if (this.#leader) return;
    this.#waits?.abort();
    this.#waits = null;
    this.#lock({ steal: true });
  }

  #lock(options) {
    const held = () => new Promise((release) => this.#lead(release));
    world.navigator.locks.request(this.#name, options, held).catch(() => {
      // Somebody stole it, while this page was frozen; or it was given up.
      if (!this.#leader || this.#over.signal.aborted) return;
      this.#stopLeading();
      this.#queueUp();
    });
  }

  #lead(release) {
    if (this.#over.signal.aborted) return release();
    this.#release = release;
    this.#leader = new Leader(this.#url, this.#token, this.#upstream, (message) => this.#say(message));
    this.#leader.join(this.#id, [...this.bugs]);
    this.#say({ call: true });
  }

  #stopLeading() {
    this.#leader?.close();
    this.#leader = null;
    this.#release?.();
  }
}

/** Whether pages can share: on plain http, browsers have no locks. */
const canShare = () => world.navigator?.locks && world.BroadcastChannel;

/** Pages share with those of the same token only, which is not to be read from the names of what they share. */
const identityOf = async (token) => {
  const digest = await world.crypto.subtle.digest("SHA-256", new TextEncoder().encode(token));
  return ` ${[...new Uint8Array(digest)].join(".")}`;
};

export const shared = (name, upstream, fetch = world.fetch) => (url, on, token) => {
  if (!canShare()) return new Alone(url, on, fetch, token).link;
  const member = (identity) => new Member(url, on, fetch, token, identity, name, upstream).link;
  if (!token) return member("");
  let link;
  let isClosed = false;
  identityOf(token).then((identity) => isClosed || (link = member(identity)));
  const close = () => {
    isClosed = true;
    link?.close();
  };
  return { name, send: (command) => link.send(command), close };
};
