// What is watched: one feed of the client library, what it says on its connection, and what the page adds to both. In: what
// the person wants. Out: events by way of `on`. The library reconnects and resumes by itself; this only replaces it when
// somebody is too impatient to wait, handing the cursor on.

import { TransportTap } from "./transport_tap.js";

/** Seconds between heartbeats: a dead link is noticed after two and a half times as long. */
const HEARTBEAT_S = 15;

export class Watch {
  /** connecting, open, waiting or closed; and why, and when the next attempt is (by the clock `now`). */
  state = "connecting";
  why = "";
  retryAt = null;
  /** The verdict of this connection's first subscription that resumed, and what it brought. */
  verdict = { replay: null, count: 0 };
  /** The bugs that the gateway has confirmed on this connection. */
  active = new Set();

  #feed;
  #cursor;
  #pausedSince = null;
  #library;
  #url;
  #now;
  #on;
  /** Catch-ups by date that were asked for and are not complete. */
  #wanted = [];
  /** Attempts in a row that failed, and whether one ever succeeded. */
  #vain = 0;
  #proven = false;

  /**
   * @param library `{ Bugfeed, transport, token(), fallBack(proven) }`: the token to connect with, or null; the last is called
   *   when two attempts in a row were in vain
   * @param now a clock in ms
   * @param on `state()`, `change({bug, when, kind})`, `gap(bugs)`, `watched()` when bugs or the verdict changed,
   *   `error(text)`, `ended(error)` when it is not tried again by itself, `shown()`: a filter of what the list has already
   */
  constructor(library, url, { bugs, cursor }, now, on) {
    this.tap = new TransportTap(library.transport, now, this.#listen());
    this.#library = library;
    this.#url = url;
    this.#now = now;
    this.#on = on;
    this.#start(bugs, cursor);
  }

  get bugs() {
    return this.#feed.bugs;
  }

  /** Up to here everything was told. The feed's own cursor may lie beyond a gap that it tells later. */
  get cursor() {
    return this.#cursor;
  }

  /** The state, and "paused" where there is a connection on which nothing can arrive. */
  get shownState() {
    return this.state === "open" && this.#feed.feedState === "paused" ? "paused" : this.state;
  }

  /** Since when nothing can arrive; null where that is not known, or is not so. */
  get pausedSince() {
    return this.shownState === "paused" ? this.#pausedSince : null;
  }

  get protocol() {
    return this.#feed.protocol;
  }

  /** Watches bugs too; with `since` also shows their changes from then on. */
  subscribe(bugs, since = null) {
    if (since !== null) this.#wanted.push({ bugs, since, asked: false });
    this.#feed.subscribe(bugs);
    // The library sends its own command in a moment; ours goes behind it.
    queueMicrotask(() => this.#ask());
    this.#on.watched();
  }

  unsubscribe(bugs) {
    this.#feed.unsubscribe(bugs);
    for (const bug of bugs) this.active.delete(bug);
    // The cursor spoke for these bugs. Others, watched later, begin when they are.
    if (this.bugs.length === 0) this.#cursor = this.#feed.cursor = null;
    this.#on.watched();
  }

  /** Connects at once, from where the feed is now. */
  retry() {
    const replaced = this.#feed;
    this.#start(replaced.bugs, this.#cursor);
    replaced.close();
  }

  #start(bugs, cursor) {
    this.#cursor = cursor;
    const keep = (_, told) => {
      if (feed === this.#feed) this.#cursor = told;
    };
    const feed = new this.#library.Bugfeed(this.#url, {
      bugs,
      cursor,
      storage: { getItem: () => null, setItem: keep },
      key: "told",
      heartbeat: HEARTBEAT_S,
      token: this.#library.token(),
      transport: this.tap.transport,
    });
    // What a replaced feed still says is none of ours.
    const listen = (type, then) => feed.addEventListener(type, ({ detail }) => feed === this.#feed && then(detail));
    this.#feed = feed;
    listen("state", (detail) => this.#became(detail));
    listen("subscribed", (detail) => this.#subscribed(detail));
    listen("change", ({ bug, when }) => this.#changed(bug, when));
    listen("gap", ({ bugs: missed }) => this.#on.gap(missed));
    listen("feed", ({ since }) => {
      this.#pausedSince = typeof since === "string" ? since : null;
      this.#on.state();
    });
    listen("error", (error) => this.#failed(error));
  }

  #listen() {
    return {
      opened: () => this.#ask(),
      shown: () => this.#on.shown(),
      caughtUp: ({ cursor }, count) => {
        if (cursor) this.verdict.count = count;
        this.#on.watched();
      },
    };
  }

  #became({ state, reason = "", delay }) {
    this.state = state;
    if (state === "connecting") this.verdict = { replay: null, count: 0 };
    if (state === "waiting") {
      this.why = reason;
      this.#vain += 1;
      if (this.#vain === 2) this.#library.fallBack(this.#proven);
    }
    if (state === "open") {
      this.why = "";
      this.#vain = 0;
      this.#proven = true;
    }
    this.retryAt = state === "waiting" ? this.#now() + delay : null;
    if (state !== "open") {
      this.active.clear();
      for (const wanted of this.#wanted) wanted.asked = false;
    } else {
      this.tap.ping();
    }
    this.#on.state();
  }

  #subscribed({ bugs, replay }) {
    for (const bug of bugs) if (this.#feed.bugs.includes(bug)) this.active.add(bug);
    if (replay !== null) this.verdict.replay = replay;
    this.#on.watched();
  }

  #changed(bug, when) {
    const { kind } = this.tap;
    if (kind !== "repeated") this.#on.change({ bug, when, kind });
  }

  #failed(error) {
    if (error.final) this.why = error.message;
    this.#on.error(error.message.replace(/^\w+ refused: /, ""));
    if (error.final) this.#on.ended(error);
    this.#on.watched();
  }

  /** Sends the catch-ups by date that this connection was not asked for yet. */
  #ask() {
    if (!this.tap.isOpen) return;
    const watched = new Set(this.bugs);
    for (const wanted of this.#wanted) wanted.bugs = wanted.bugs.filter((bug) => watched.has(bug));
    this.#wanted = this.#wanted.filter(({ bugs }) => bugs.length > 0);
    for (const wanted of this.#wanted.filter(({ asked }) => !asked)) {
      wanted.asked = true;
      this.tap.catchUp(wanted.bugs, wanted.since, ({ result, error }) => {
        this.#wanted = this.#wanted.filter((other) => other !== wanted);
        if (result !== "ok") this.#on.error(String(error));
      });
    }
  }
}
