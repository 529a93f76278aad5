// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * Other ways to a gateway, for networks that let no WebSocket pass: a stream of events (SSE), and asking again and
 * again (long-poll). bugfeed.js loads this module when it has reason to. What is public is in client-fallback.d.ts.
 */

const world = globalThis;
/** No answer and no silence of a stream lasts longer, in seconds: many proxies cut after a minute of it. */
const QUIET_S = 30;
/** How long the first message of a stream may take, in ms: it shows which proxies keep a stream until it ends. */
const FIRST_MS = 8_000;
const ANSWER_MS = 15_000; // How long anything else may take that ought to come at once, in ms.
/** How long commands are gathered that need another request, in ms: one bug after the other is one request. */
const GATHER_MS = 100;
const POLL_MS = 500; // Polls begin no faster than this, in ms, however much there is to tell.
const FRESH_MS = 5_000; // What was heard from so recently is alive without being asked, in ms.
const MAX_URL = 2_000; // Longer questions are no URL.
const MAX_LINE = 65_536; // No message of a gateway is longer, in characters.
/** When WebSocket is tried again, in ms: at first, and at last, twice as long each time. */
const AGAIN_MS = [60_000, 3_600_000];
const UNKNOWN = "unknown"; // The cursor of those who were given none: resuming from it is a gap.
const LATER = [408, 425, 429]; // HTTP statuses that mean "later", unlike the others from 400 to 499.
const MAX_WAIT_MS = 300_000; // No server is waited for longer than this, in ms.
const NOT_HERE = [400, 404, 405, 426]; // What servers say that do not know the address or the question.

const isLost = (replay) => !["complete", "latest"].includes(replay);

const parsed = (json) => {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    return {};
  }
};

/**
 * What a refusal means. Only the gateway's own word may be final, which its header tells from a proxy's: that one may say
 * anything while the gateway restarts.
 */
const judged = (status, header, body) => {
  const { error } = parsed(body);
  const own = typeof error === "string" && error;
  const seconds = header("retry-after") ?? "";
  const wait = /^\d+$/.test(seconds) ? seconds * 1000 : Date.parse(seconds) - Date.now();
  return {
    status,
    reason: own || `HTTP status ${status}`,
    final: !!header("bugfeed-version") && status >= 400 && status < 500 && !LATER.includes(status),
    delay: [429, 503].includes(status) && wait > 0 ? Math.min(wait, MAX_WAIT_MS) : 0,
  };
};

/** The same of what `ws` got for an answer to the wish for a WebSocket. */
export const refused = async (answer, close) => {
  const { statusCode: status, headers } = answer;
  let body = "";
  try {
    for await (const piece of answer) if ((body += piece).length > MAX_LINE) break;
  } catch {
    // What came is enough.
  }
  const why = judged(status, (name) => headers[name], body);
  // A proxy that strips the wish for a WebSocket from the request makes it one that is answered so.
  close({ ...why, final: why.final && ![400, 426].includes(status) });
};

/**
 * A session made of requests. Each names all bugs and where to resume, so that another can take over at any time: that
 * is how commands are carried out. What they are answered with over WebSocket is made up here, in the order asked.
 */
class Session {
  bugs = new Set(); // What the last answered request watches.
  cursor = null; // Up to here everything was passed on.
  heartbeat = QUIET_S;
  #url;
  #on;
  #fetch;
  #token;
  #closed = false;
  #todo = []; // Commands that no request carries yet.
  #asked = []; // Commands that the running request carries…
  #pending; // …and whether it is still to be answered.
  #wanted; // What the running request watches.
  #resumes; // Whether it resumes what was watched already.
  #running;
  #deadline;
  #next;
  #heardAt = 0;

  constructor(url, on, fetch, token) {
    this.#url = new URL(url);
    this.#url.protocol = this.#url.protocol.replace("ws", "http");
    this.#url.pathname = this.#url.pathname.replace(/\/?$/, `/${this.path}`);
    this.#url.hash = "";
    this.#on = on;
    this.#fetch = fetch;
    this.#token = token;
    queueMicrotask(() => on.open());
  }

  get link() {
    return { name: this.name, send: (command) => this.#send(command), close: () => this.#close() };
  }

  /** Whether the running request was not answered yet. */
  get pending() {
    return this.#pending;
  }

  #send(command) {
    // A stream cannot be asked whether it lives, only replaced.
    if (command.command === "version" && Date.now() - this.#heardAt < FRESH_MS)
      return queueMicrotask(() => this.say({ command: "version", result: "ok" }));
    this.#todo.push(command);
    if (this.#todo.length > 1) return;
    if (!this.#running) queueMicrotask(() => this.#ask());
    else if (!this.#asked.length) this.next();
  }

  #close() {
    this.#closed = true;
    clearTimeout(this.#next);
    clearTimeout(this.#deadline);
    this.#running?.abort();
    this.closed();
  }

  /** For what else has to end. */
  closed() {}

  end(why) {
    if (this.#closed) return;
    this.#close();
    this.#on.close(why);
  }

  say(message) {
    this.pass(JSON.stringify(message));
  }

  pass(json) {
    if (!this.#closed) this.#on.message(json);
  }

  heard() {
    this.#heardAt = Date.now();
    clearTimeout(this.#deadline);
  }

  /** Another request in a moment if there are commands for it, otherwise after so many ms; or none. */
  next(ms) {
    if (this.#todo.length) ms = GATHER_MS;
    clearTimeout(this.#next);
    if (ms !== undefined) this.#next = setTimeout(() => this.#ask(), ms);
  }

  /** A request that takes the place of the running one. */
  async #ask() {
    if (this.#closed) return;
    this.#running?.abort();
    const { signal } = (this.#running = new AbortController());
    if (!this.#asked.length) this.#asked = this.#todo.splice(0);
    this.#pending = true;
    this.began = Date.now();
    const { limit, parameters } = this.#question();
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.end({ reason: "no answer, or a proxy keeps it" }), limit);
    try {
      const response = await this.#request(parameters, signal);
      if (response.ok) await this.read(response, signal);
      else await this.#refused(response, signal);
    } catch (error) {
      // Those that were given up fail, too.
      if (!signal.aborted) this.end({ reason: error.message, status: error.status });
    }
  }

  #question() {
    const wanted = (this.#wanted = new Set(this.bugs));
    let position = {};
    for (const { command, bugs, cursor, since, heartbeat } of this.#asked) {
      if (command === "hello") this.heartbeat = Math.min(heartbeat, QUIET_S);
      if (command === "unsubscribe") for (const bug of [bugs].flat()) wanted.delete(bug);
      if (command !== "subscribe") continue;
      // All of them are a word.
      for (const bug of [bugs].flat()) wanted.add(bug);
      if (cursor || since) position = { cursor, since };
    }
    // New bugs are resumed with the others: then they may tell of what happened just before, but nothing gets lost.
    this.#resumes = !position.cursor && !position.since && this.bugs.size > 0 && wanted.size > 0;
    if (this.#resumes) position = { cursor: this.cursor ?? UNKNOWN };
    const { limit, ...more } = this.terms(this.#asked.length > 0);
    const parameters = Object.entries({ ...position, ...more })
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `&${name}=${encodeURIComponent(value)}`);
    return { limit, parameters: `bugs=${wanted.has("all") ? "all" : [...wanted]}${parameters.join("")}` };
  }

  #request(parameters, signal) {
    const url = new URL(this.#url);
    const body = parameters.length > MAX_URL ? parameters : undefined;
    if (!body) url.search += (url.search && "&") + parameters;
    const headers = this.#token ? { authorization: `Bearer ${this.#token}` } : {};
    headers.accept = this.type;
    if (body) headers["content-type"] = "application/x-www-form-urlencoded";
    // Not as a method of this: browsers refuse that.
    return (0, this.#fetch)(url.href, { method: body ? "POST" : "GET", body, headers, signal, cache: "no-store" });
  }

  async #refused(response, signal) {
    const { status, headers } = response;
    const text = await response.text();
    if (signal.aborted) return;
    const { error } = parsed(text);
    const [first, second] = this.#asked.flatMap(({ command }, index) => (command === "subscribe" ? [index] : []));
    // A token that is not for these bugs, or not for so many, may be for others.
    const isDenied = status === 400 ? error : status === 403 && /^this token .*\bbugs?\b/.test(error);
    if (!isDenied || first === undefined)
      return this.end(judged(status, (name) => headers.get(name), text));
    this.heard();
    // Like a refused subscribe of a WebSocket: the session goes on without it. Of several, the first may be welcome.
    if (second) this.#todo.unshift(...this.#asked.splice(second));
    else {
      this.#asked.splice(first, 1);
      this.say({ command: "subscribe", result: "error", error });
    }
    this.#ask();
  }

  /** What was asked for is so, and this is the verdict where the request resumed. */
  answer(replay, cursor, hello, about) {
    const asked = this.#asked.splice(0);
    this.#pending = false;
    this.bugs = this.#wanted;
    if (this.#resumes && isLost(replay)) this.say({ command: "gap", cursor, ...about });
    for (const { command, cursor: from } of asked) {
      if (command === "hello") {
        if (hello) this.say({ command, result: "ok", ...hello });
      } else if (command === "version") this.say({ command, result: "ok" });
      else this.say({ command, result: "ok", replay: from && replay, cursor, ...about });
    }
    this.reached(cursor);
  }

  reached(cursor) {
    if (this.bugs.size && typeof cursor === "string") this.cursor = cursor;
  }
}

/** Another page in the gateway's place, such as a network's where people have to log in first. */
const strange = ({ status }, what) => Object.assign(new Error(`no ${what} of a gateway`), { status });

/** SSE, read with `fetch`: EventSource tells no status, and cannot send long lists. */
class Stream extends Session {
  get name() {
    return "sse";
  }

  get path() {
    return "sse";
  }

  get type() {
    return "text/event-stream";
  }

  terms() {
    return { limit: FIRST_MS, heartbeat: this.heartbeat };
  }

  async read(response, signal) {
    if (!response.headers.get("content-type")?.startsWith(this.type)) throw strange(response, "stream");
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (done) throw new Error("the stream ended");
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      if (rest.length > MAX_LINE) throw new Error("a line without an end");
      // Each message is one line; the others (id, retry, comments) say nothing that the messages do not.
      for (const line of lines) if (line.startsWith("data:") && !signal.aborted) this.#message(line.slice(5));
    }
  }

  #message(json) {
    this.heard();
    const { command, replay, cursor, spread_ms } = parsed(json);
    if (command === "subscribe" && this.pending) {
      this.answer(replay, cursor, null, { spread_ms });
      this.next();
    } else {
      if (command !== "hello") this.reached(cursor);
      this.pass(json);
    }
  }
}

/** Long-poll: each answer is passed on as what a WebSocket would have brought, with a heartbeat for its cursor. */
export class Poll extends Session {
  /** Whether an answer proves that this way works. */
  isProof = true;

  get name() {
    return "long-poll";
  }

  get path() {
    return "changes";
  }

  get type() {
    return "application/json";
  }

  terms(asking) {
    this.asking = asking;
    // What was asked for is to be answered now.
    const wait = asking ? 0 : this.heartbeat;
    return { limit: wait * 1000 + ANSWER_MS, wait };
  }

  async read(response, signal) {
    const { changes, replay, cursor, more, retry_after_ms, state, spread_ms } = parsed(await response.text());
    if (signal.aborted) return;
    if (!Array.isArray(changes) || typeof cursor !== "string") throw strange(response, "answer");
    this.heard();
    const known = cursor === UNKNOWN ? null : cursor;
    // Changes have no cursors of their own: the answer's is right when all of them were passed on.
    const hello = { heartbeat: this.heartbeat, cursor: known };
    this.answer(replay, changes.length ? null : known, hello, { spread_ms, state });
    for (const change of changes) this.say({ ...change, command: "update" });
    this.reached(known);
    this.say({ command: "heartbeat", cursor: this.bugs.size ? known : null, state, isProof: this.isProof });
    if (retry_after_ms === undefined) this.next(this.pause(changes, more, known));
    else {
      this.say({ command: "goaway", retry_after_ms });
      this.end({ code: 1012, reason: "the gateway goes away" });
    }
  }

  /** How long to wait until the next poll. */
  pause({ length: count }, more, known) {
    const took = Date.now() - this.began;
    const isNothing = !count && !more && !this.asking && took < POLL_MS;
    // A gateway that knows no number, and a cache that answers in its place, would be asked without end.
    if (isNothing || (this.bugs.size && !known)) return this.heartbeat * 1000;
    return this.asking || (count && more) ? 0 : Math.max(0, POLL_MS - took);
  }
}

export const eventStream = (fetch = world.fetch) => (url, on, token) => new Stream(url, on, fetch, token).link;
export const longPoll = (fetch = world.fetch) => (url, on, token) => new Poll(url, on, fetch, token).link;

/**
 * Browsers open six connections to a host and no more, for all pages together: what a page holds for ever, the tracker of
 * the same host lacks. So pages share one. Where that module is not to be had, each has its own.
 */
const shared = (name, direct, fetch) => (url, on, token) => {
  let link;
  let isClosed = false;
  const begin = (transport) => isClosed || (link = transport(url, on, token));
  // As bugfeed.js does.
  const loading = import("./client-shared.js").catch(() => import(`./client-shared.js?${Date.now()}`));
  loading.then((module) => begin(module.shared(name, direct, fetch)), () => begin(direct));
  const close = () => {
    isClosed = true;
    link?.close();
  };
  return { name, send: (command) => link.send(command), close };
};

/** Which of three transports the n-th attempt in a row takes: the best one some times, then each of the others once. */
const turn = (n, best, times) => {
  const at = n % (times + 2);
  return at < times ? best : (best + at - times + 1) % 3;
};

/** Takes turns: WebSocket, SSE and long-poll, one at each attempt to connect, first the one that worked last. */
class Turns {
  #ways;
  #best = 0;
  #proven; // The ways that have worked.
  #attempts = 2; // Those in vain since then; two called for this.
  #again = AGAIN_MS[0];
  #status; // Of the last answer that was none of a gateway.

  constructor(socket, proven, { withCredentials } = {}) {
    const credentials = withCredentials ? "include" : "same-origin";
    const ask = (url, options) => fetch(url, { ...options, credentials });
    const ways = [eventStream(ask), longPoll(ask)];
    const isPage = world.document !== undefined;
    this.#ways = [socket, ...ways.map((way, at) => (isPage ? shared(["sse", "long-poll"][at], way, ask) : way))];
    this.#proven = new Set(proven ? [0] : []);
  }

  connect(url, on, token) {
    // What has worked before is given up less soon: it may be the gateway that is away.
    const way = turn(this.#attempts, this.#best, this.#proven.has(this.#best) ? 4 : 2);
    // Without a network nothing is learnt.
    if (world.navigator?.onLine !== false) this.#attempts++;
    let works = false;
    let isOpen = false;
    let trials;
    const end = () => {
      trials?.();
      link.close();
    };
    const link = this.#ways[way](url, {
      open: () => {
        isOpen = true;
        on.open();
      },
      message: (json) => {
        if (!works && isProof(way, json)) {
          works = true;
          this.#worked(way);
          if (way)
            trials = this.#tryAgain(url, token, () => {
              end();
              on.close({ reason: "WebSocket passes" });
            });
        }
        on.message(json);
      },
      close: ({ ...why }) => {
        trials?.();
        // Browsers do not show what a WebSocket was refused with; most often it is what the others are.
        if (way || isOpen) this.#status = why.status;
        else why.status ??= this.#status;
        // A gateway that has no such address is one for WebSocket alone; and one that refuses a token is not blocked.
        if (way && (why.final ? why.status === 401 : NOT_HERE.includes(why.status))) this.#attempts = 0;
        on.close(why);
      },
    }, token);
    return { name: link.name, send: (command) => link.send(command), close: end };
  }

  #worked(way) {
    this.#best = way;
    this.#attempts = 0;
    this.#proven.add(way);
    if (!way) this.#again = AGAIN_MS[0];
  }

  /** While another way works: tries from time to time whether WebSocket does, beside it, so that nobody notices. */
  #tryAgain(url, token, then) {
    let link;
    let timer;
    const later = () => (timer = setTimeout(begin, (this.#again / 2) * (1 + Math.random())));
    const end = () => {
      clearTimeout(timer);
      const tried = link;
      link = null;
      tried?.close();
    };
    const failed = () => {
      end();
      later();
    };
    const begin = () => {
      this.#again = Math.min(2 * this.#again, AGAIN_MS[1]);
      timer = setTimeout(failed, ANSWER_MS);
      const ours = (what) => () => trial === link && what();
      const passes = () => {
        end();
        this.#best = this.#attempts = 0;
        then();
      };
      let trial;
      try {
        const open = ours(() => trial.send({ command: "hello" }));
        link = trial = this.#ways[0](url, { open, message: ours(passes), close: ours(failed) }, token);
      } catch {
        failed();
      }
    };
    later();
    return end;
  }
}

/** A WebSocket that speaks works. A stream may begin well and be kept then: what comes after its beginning counts. */
const isProof = (way, json) => {
  const { command, isProof } = parsed(json);
  return !way || (isProof !== false && !["hello", "subscribe", "feed"].includes(command));
};

const made = new WeakSet();

export const fallback = (socket, proven, options) => {
  if (made.has(socket)) return socket;
  const turns = new Turns(socket, proven, options);
  const transport = (url, on, token) => turns.connect(url, on, token);
  made.add(transport);
  return transport;
};
