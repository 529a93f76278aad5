// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * Hears from a bugfeed gateway which bugs have just changed, and misses none: it reconnects by itself and resumes from
 * the last cursor, on any gateway of the feed. Sections 1 to 3 of PROTOCOL.md; what is public is in bugfeed.d.ts.
 */

const world = globalThis;
const soon = queueMicrotask;
/** How long opening a connection may take, in ms. */
const CONNECT_MS = 15_000;
/** Marks a cursor that is a date, for gateways that know no cursors. */
const SINCE = "since:";
/** What is named often. */
const WAITING = "waiting";
const SUBSCRIBE = "subscribe";
const CLASSIC = "classic";
const HELLO = "hello";
const ERROR = "error";
/** What stands for bugs where all of them are meant. */
const ALL = "all";
/** The cursor of those who were given none: no gateway made it, so that resuming from it is a gap. */
const UNKNOWN = "unknown";

/** Some browsers never ask again for a module that once was not to be had; under another address they do. */
const again = (module, name) => module.catch(() => import(`./client-${name}.js?${Date.now()}`));
const loadOthers = () => again(import("./client-fallback.js"), "fallback");

/** The end of a connection whose token was refused or has expired, and of one whose token was taken away. */
const NO_TOKEN = 4401;
const REVOKED = 4403;

/** What went wrong. `final` errors end the feed, since trying again would not mend them. */
export class BugfeedError extends Error {
  name = "BugfeedError";
  type = ERROR;
  final = false;

  /** @param {string} message @param {object} [about] more members */
  constructor(message, about) {
    super(message);
    Object.assign(this, about);
  }
}

/**
 * The transport over WebSocket.
 * @param {typeof WebSocket} Socket the class
 * @returns {import("./bugfeed.js").Transport}
 */
export const webSocket = (Socket) => (url, on, token) => {
  // Browsers let no header be added; the gateway takes the first of these, and reads the second.
  const socket = new Socket(url, token ? ["bugfeed", `bugfeed.bearer.${token}`] : []);
  let trouble;
  const end = ({ code, reason, message = trouble }) => on.close({ code, reason: reason || message });
  // Of what never began, Node 20 and 22 tell no end: an error is all there is.
  socket.onerror = end;
  socket.onopen = () => {
    socket.onerror = ({ message }) => (trouble = message);
    on.open();
  };
  socket.onmessage = ({ data }) => on.message(data);
  socket.onclose = end;
  // `ws` shows what a handshake was answered with; browsers, and Node's own, do not.
  socket.on?.("unexpected-response", (_, answer) =>
    loadOthers().then((module) => module.refused(answer, on.close), end),
  );
  return {
    name: "websocket",
    send: (command) => socket.send(JSON.stringify(command)),
    close: () => socket.close(1000),
  };
};

/** A transport that gets a token first. The module that does it completes the link. */
const withToken = (source, transport) => (url, on) => {
  const link = { close: () => (link.isOver = true) };
  again(import("./client-token.js"), "token")
    .then((module) => module.connect(link, source, transport, url, on))
    .catch((cause) => on.close({ reason: `no token: ${cause}` }));
  return link;
};

/** A heartbeat, if nothing else is said. */
const within = (number, least = 1, most = 300) => typeof number === "number" && number >= least && number <= most;

/** @throws RangeError if one is no bug number */
const numbers = (bugs) =>
  bugs.flat().map((bug) => {
    if (/^\s*\d+\s*$/.test(bug) && within(+bug, 1, 2 ** 53 - 1)) return +bug;
    throw new RangeError(`not a bug number: ${bug}`);
  });

const address = (text) => {
  const url = new URL(text, world.location?.href).href.replace(/^http/, "ws");
  if (!/^wss?:/.test(url)) throw new TypeError(`not an address: ${text}; write wss://HOST/`);
  return url;
};

/** Whose changes these are, as the application is told. */
const told = (bugs) => (bugs.includes(ALL) ? { bugs: [], all: true } : { bugs });

/** The date, if the cursor is one. */
const dateOf = (cursor) => cursor?.split(SINCE)[1];

/** For each listener another one, which shows that it was called. */
const ears = new WeakMap();

/** A feed of changes: connects as soon as it is made, and again whenever the connection breaks, until it is closed. */
export class Bugfeed extends EventTarget {
  state = WAITING;
  protocol = null;
  replay = null;
  head = null;
  welcome = null;
  transport = null;
  feedState = "live";
  cursor; // Up to here everything was received…
  #saved; // …and up to here everything was dealt with.

  #bugs; // What is wanted.
  #sent; // What this connection was asked for, while it is open.
  #asked; // Commands of this connection that are not answered yet.
  #resumed; // The command that told this connection where to resume.
  #last; // What the gateway said last.

  #transport;
  #others; // Where other transports may be tried: what they need to know.
  #link;
  #heartbeat; // In seconds.
  #interval; // What the gateway granted, in ms.
  #timer;
  #failures = 0;
  #token; // A text, or a function that gives one.
  #refused; // Whether the last token was, and nothing has come since that only a good one brings.
  #row = {}; // The status that the last attempts were answered with, and how many of them.
  #retryAfter;
  #ended = new AbortController();

  #store;
  #queue = []; // Of what waits for somebody. Until it is loaded, what it is to do then; most often nothing.
  #loading;

  constructor(
    url,
    {
      bugs = [],
      signal,
      storage,
      key,
      cursor,
      heartbeat = 30,
      token,
      transport,
      withCredentials,
      WebSocket = world.WebSocket,
    } = {},
  ) {
    super();
    this.url = address(url);
    if (!within(heartbeat) || heartbeat % 1) throw new RangeError("heartbeat: whole, 1 to 300");
    if (!transport && !WebSocket)
      throw new TypeError("no WebSocket: npm i ws; import {WebSocket} from 'ws'; pass {WebSocket}");
    if (storage && !key) throw new TypeError("storage needs a key");
    if (token && typeof token !== "function" && !/^\s*[\w.~-]+\s*$/.test(token))
      throw new TypeError("token: letters, digits, and - . _ ~");
    this.#heartbeat = heartbeat;
    this.#token = token;
    this.#others = !transport && { withCredentials };
    this.#transport = transport ?? webSocket(WebSocket);
    this.#bugs = new Set(bugs === ALL ? [ALL] : numbers([...bugs]));
    this.#store = (cursor) => storage?.setItem(key, cursor);
    this.#saved = storage?.getItem(key);
    this.cursor = cursor ?? this.#saved ?? null;
    const until = this.#ended;
    signal?.addEventListener("abort", this.close, until);
    world.addEventListener?.("online", this.#wake, until);
    world.document?.addEventListener("visibilitychange", this.#wake, until);
    // Later, so that listeners hear of it.
    soon(() => (signal?.aborted ? this.close() : this.reconnect()));
  }

  get bugs() {
    return [...this.#bugs].filter(Number);
  }

  get all() {
    return this.#bugs.has(ALL);
  }

  subscribe(...bugs) {
    this.#change("add", bugs);
  }

  unsubscribe(...bugs) {
    this.#change("delete", bugs);
  }

  close = () => {
    if (this.state === "closed") return;
    // Before what is still to be done.
    this.#queue.unshift((queue) => queue.close());
    this.#end();
  };

  [Symbol.asyncIterator]() {
    const ask = (what) => () => this.#later((queue) => queue[what](reader));
    const reader = { [Symbol.asyncIterator]: () => reader, next: ask("next"), return: ask("leave") };
    return reader;
  }

  // An event that nobody hears waits for somebody who does.

  addEventListener(type, listener, options) {
    if (listener && !ears.has(listener)) ears.set(listener, (event) => (event.heard = 1));
    for (const each of [ears.get(listener), listener]) super.addEventListener(type, each, options);
    // In a moment, when those of other types are there, too.
    soon(() => this.#queue.offer?.());
  }

  removeEventListener(type, listener, options) {
    for (const each of [ears.get(listener), listener]) super.removeEventListener(type, each, options);
  }

  // Connecting, open, waiting, closed.

  reconnect() {
    if (this.state !== WAITING) return;
    let link;
    const ours = (then) => (about) => link === this.#link && then.call(this, about);
    this.#asked = new Set();
    this.#interval = this.#heartbeat * 1000;
    this.#resumed = this.#last = this.#retryAfter = this.protocol = null;
    this.#after(CONNECT_MS);
    const transport = this.#token ? withToken(this.#token, this.#transport) : this.#transport;
    try {
      link = this.#link = transport(this.url, {
        open: ours(this.#opened),
        message: ours(this.#received),
        close: ours(this.#lost),
      });
      this.transport = link.name ?? null;
      // Last: whoever hears of it may close the feed, and the link with it.
      this.#become("connecting");
    } catch (cause) {
      this.#fail(cause);
    }
  }

  #opened() {
    this.transport = this.#link.name ?? null;
    this.#sent = new Set();
    // Where there are other ways, one that opens and then says nothing is not waited for any longer.
    if (!this.#others) this.#heard();
    this.#ask({ command: HELLO, heartbeat: this.#heartbeat });
    this.#flush();
  }

  #lost({ code, reason, status, final, delay: least = 0 }) {
    this.#leave();
    const message = `${this.url} refuses (${status || code}): ${reason}`;
    const isRefused = code === NO_TOKEN || (final && status === 401);
    // Another token may be had: at once, but not twice in a row.
    if (isRefused && typeof this.#token === "function") {
      if (!this.#refused) this.#retryAfter = 0;
      this.#refused = true;
    } else if (final || [1002, 1003, 1007, 1009, NO_TOKEN, REVOKED].includes(code))
      // The same would be refused again.
      return this.#fail(message + (isRefused && this.#token ? "; the token was refused or has expired" : ""), { code, status });
    const row = 1 + (this.#row[status] | 0);
    this.#row = { [status]: row };
    // A gateway that goes away says when to come back, another time to each client. Otherwise, half a step to a step.
    const delay =
      this.#retryAfter ?? Math.min(500 * 2 ** this.#failures++, 15_000) * (1 + Math.random()) + least;
    this.#after(delay, () => this.reconnect());
    // Perhaps WebSocket does not pass here: from now on it takes turns with others, if the module is to be had.
    if (this.#others && this.#failures % 3 === 2)
      loadOthers().then(
        (module) => (this.#transport = module.fallback(this.#transport, this.head, this.#others)),
        () => {},
      );
    this.#become(WAITING, { reason: reason || `connection lost (${code})`, delay });
    if (status && row === 3) this.#tell(ERROR, new BugfeedError(`${message}; retrying`, { status }));
  }

  #leave() {
    const link = this.#link;
    this.#link = this.#sent = null;
    link?.close();
  }

  #fail(message, about) {
    this.#move(null, new BugfeedError(message, { final: true, ...about }));
    this.#end();
  }

  #end() {
    clearTimeout(this.#timer);
    this.#leave();
    this.#ended.abort();
    this.#become("closed");
  }

  #become(state, about) {
    this.state = state;
    this.#tell("state", { state, ...about });
  }

  /** The network is back, or somebody looks at the page: no time to wait, nor to trust a connection blindly. */
  #wake = () => {
    if (world.document?.hidden) return;
    if (this.#sent) this.#probe();
    else this.#retryAfter ?? this.reconnect();
  };

  /** How long the answer may take where there is reason to doubt the connection, in ms. */
  #probe(ms = 5_000) {
    this.#link.send({ command: "version" });
    this.#after(ms);
  }

  /** Something came. Classic gateways send no heartbeat, so they are asked for a sign of life. */
  #heard() {
    if (this.protocol === CLASSIC) this.#after(this.#interval, () => this.#probe(1.5 * this.#interval));
    else this.#after(2.5 * this.#interval);
  }

  /** What happens next if nothing else does: unless it is said, the connection is given up. */
  #after(ms, then = () => this.#lost({ reason: "silence" })) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, ms);
  }

  // What the gateway is asked for.

  /** Sent in a moment, so that bugs subscribed one by one are resumed together: a cursor speaks for all of them. */
  #change(how, bugs) {
    // All may be added, and nothing else be said of them.
    for (const bug of how === "add" && bugs.includes(ALL) ? [ALL] : numbers(bugs)) this.#bugs[how](bug);
    soon(() => this.#flush());
  }

  #flush() {
    if (!this.#sent || this.#sent.has(ALL)) return;
    if (this.all) {
      this.#sent.add(ALL);
      return this.#askFor(ALL);
    }
    const drop = [...this.#sent].filter((bug) => !this.#bugs.has(bug));
    const bugs = this.bugs.filter((bug) => !this.#sent.has(bug));
    this.#sent = new Set(this.#bugs);
    if (drop.length) this.#ask({ command: "unsubscribe", bugs: drop });
    if (bugs.length) this.#askFor(bugs);
  }

  #askFor(bugs) {
    const position = (!this.#resumed && this.cursor) || undefined;
    const since = dateOf(position);
    const command = { command: SUBSCRIBE, bugs, since, cursor: since ? undefined : position };
    this.#resumed ??= command;
    this.#ask(command);
  }

  #ask(command) {
    this.#asked.add(command);
    this.#link.send(command);
  }

  // What the gateway says.

  #received(text) {
    if (!this.#refused) this.#failures = 0;
    this.#row = {};
    this.#heard();
    let message;
    try {
      message = JSON.parse(text) ?? {};
    } catch {
      return;
    }
    const { command, bug, when, cursor: place, state, since, retry_after_ms: delay, spread_ms: spread } = message;
    const cursor = typeof place === "string" ? place : null;
    const isBeat = command === "heartbeat";
    const isRefused = message.result === ERROR;
    // Those without a token are greeted all the same.
    if (this.#refused && command !== HELLO && !isRefused) this.#failures = this.#refused = 0;
    const asked = [...this.#asked].find((each) => each.command === command);
    // Whether anything can come just now; until a new gateway has spoken, it is as it was.
    if (this.#last === HELLO || isBeat || command === "feed") {
      const now = state === "paused" ? state : "live";
      if (now !== this.feedState) this.#tell("feed", { state: (this.feedState = now), since });
    }
    this.#last = command;
    if (command === "update") {
      // On a classic gateway the largest date is where to resume, but none that lies in the future.
      if (Number.isSafeInteger(bug) && typeof when === "string")
        this.#move(
          cursor ??
            (this.protocol === CLASSIC &&
              !(when <= dateOf(this.cursor)) &&
              when < new Date().toISOString() &&
              SINCE + when),
          (this.all || this.#bugs.has(bug)) && { type: "change", bug, bugs: [bug], when },
        );
    } else if (command === "gap") {
      this.#missed(cursor, [...this.#sent], spread);
    } else if (isBeat || command === "goaway") {
      // No gateway is waited for longer than five minutes.
      if (within(delay, 0, Infinity)) this.#retryAfter = Math.min(delay, 300_000);
      this.#move(cursor);
    } else if (this.#asked.delete(asked)) {
      if (isRefused && /^a token is needed/.test(message.error))
        this.#lost({ code: NO_TOKEN, reason: message.error });
      else if (command === HELLO) this.#welcomed(message, cursor, isRefused);
      else if (isRefused) this.#denied(asked, message.error);
      else if (command === SUBSCRIBE) this.#subscribed(asked, message.replay ?? null, cursor, spread);
      else this.#move(cursor);
    }
  }

  #welcomed(message, cursor, isRefused) {
    const { heartbeat, error } = message;
    if (isRefused && error !== "invalid command") return this.#fail(`hello refused: ${error}`);
    this.protocol = isRefused ? CLASSIC : "modern";
    this.welcome = message;
    if (within(heartbeat)) this.#interval = heartbeat * 1000;
    // For those who start afresh; it is no position of ours.
    this.head = cursor ?? UNKNOWN;
    this.#heard();
    this.#become("open");
  }

  #subscribed({ bugs, cursor }, replay, now, spread) {
    this.replay = replay;
    this.#tell("subscribed", { ...told(bugs), replay });
    // Verdict gap, or none on a cursor (classic gateways do not know cursors): nobody can tell what was missed.
    if (cursor && !["complete", "latest"].includes(replay)) this.#missed(now, bugs, spread);
    else this.#move(now ?? (this.cursor ? null : UNKNOWN));
  }

  #denied(asked, error) {
    for (const bug of [asked.bugs].flat()) {
      this.#bugs.delete(bug);
      this.#sent.delete(bug);
    }
    if (asked === this.#resumed) this.#resumed = null;
    this.#move(null, new BugfeedError(`${asked.command} refused: ${error}`, told(asked.bugs)));
    // Where it was all, single ones may be left.
    this.#change("add", []);
  }

  #missed(cursor, bugs, spread) {
    bugs = [bugs].flat().filter((bug) => this.#bugs.has(bug));
    this.#move(cursor, bugs.length && { type: "gap", ...told(bugs) }, spread);
  }

  // What the application hears.

  /** Passes something on, and moves the cursor: what is resumed from at once, what is stored when it is dealt with. */
  #move(cursor, item, spread) {
    if (cursor) this.cursor = cursor;
    // Somebody hears it, and that is all: most often it is so.
    if (!spread && this.#queue.length === 0 && (!item || this.#tell(item.type, item))) this.#save(cursor);
    else this.#later((queue) => queue.add(item, cursor, spread));
  }

  #later(call) {
    this.#loading ??= again(import("./client-queue.js"), "queue").then(
      (module) => (this.#queue = new module.Queue(this.#queue, this, this.#tell, this.#save, BugfeedError)),
      (cause) => {
        this.#loading = null;
        this.#tell(ERROR, new BugfeedError(cause));
      },
    );
    return new Promise((resolve) => this.#queue.push((queue) => resolve(call(queue))));
  }

  #save = (cursor) => {
    if (cursor && cursor !== this.#saved)
      try {
        this.#store(cursor);
        this.#saved = cursor;
      } catch (cause) {
        this.#move(null, new BugfeedError(`storing failed: ${cause}`, { cause }));
      }
  };

  /** Dispatches an event; whether somebody heard it. */
  #tell = (type, detail) => {
    const event = new CustomEvent(type, { detail });
    this.dispatchEvent(event);
    return event.heard;
  };
}
