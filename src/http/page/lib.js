// The live page's decisions, without a socket, a clock or a document: what goes in are arguments, what comes out
// are return values, so that `node --test tests/page/` can check them. Served at /page-lib.js.

/** The most subscriptions the gateway accepts, and so the most worth sending in one command. */
export const MAX_BUGS = 10_000;

const BASE_MS = 1_000;
const MAX_MS = 30_000;
const GOING_AWAY_MS = 500;
/** Close codes by which a server says "I am going away, another one is or will be there". */
const GOING_AWAY = new Set([1001, 1012]);
/** Close codes that blame us. Trying again soon would only earn the same answer, so those wait the longest. */
const REFUSED = new Set([1002, 1003, 1008, 1009]);

const clip = (text, max = 24) => (text.length > max ? `${text.slice(0, max)}…` : text);

/** Bug numbers out of what a person typed: separated by commas or blanks, "#1234" allowed, repeats dropped. */
export function parseBugs(text) {
  const words = String(text).split(/[\s,;]+/).filter(Boolean);
  if (words.length === 0) return { bugs: [], error: "Enter at least one bug number, for example 1234." };
  const bugs = new Set();
  for (const word of words) {
    const digits = /^#?(\d+)$/.exec(word)?.[1];
    if (digits === undefined) {
      return { bugs: [], error: `“${clip(word)}” is not a bug number. Use digits, separated by commas or blanks.` };
    }
    const bug = Number(digits);
    if (bug < 1 || !Number.isSafeInteger(bug)) {
      return { bugs: [], error: `${clip(digits)} cannot be a bug number: they go from 1 to ${Number.MAX_SAFE_INTEGER}.` };
    }
    bugs.add(bug);
  }
  if (bugs.size > MAX_BUGS) return { bugs: [], error: `That is ${bugs.size} bugs; at most ${MAX_BUGS} can be watched.` };
  return { bugs: [...bugs], error: null };
}

const TIME = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d{1,9})?)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?$/i;

/** A point in time as the protocol writes it (UTC, no zone, fraction kept), or null when it is none. */
export function normalTime(text) {
  const parts = TIME.exec(String(text).trim());
  if (!parts) return null;
  const [, day, minutes = "00:00", seconds = ":00", zone = "Z"] = parts;
  const [whole, fraction = ""] = seconds.split(".");
  const offset = /^[+-]/.test(zone) ? zone.replace(/(\d\d):?(\d\d)$/, "$1:$2") : "Z";
  const ms = Date.parse(`${day}T${minutes}${whole}${offset}`);
  // Date.parse lets 31 April through as 1 May; a day that does not exist is a mistake to report.
  if (Number.isNaN(ms) || new Date(`${day}T00:00:00Z`).toISOString().slice(0, 10) !== day) return null;
  const kept = fraction.replace(/0+$/, "");
  // Years beyond 9999 (reached by an offset) are written with a sign, which the protocol does not know.
  const utc = new Date(ms).toISOString();
  return utc.length === 24 ? utc.slice(0, 19) + (kept && `.${kept}`) : null;
}

/** The `since` field: empty is none, otherwise UTC in the protocol's form. */
export function parseSince(text) {
  if (String(text).trim() === "") return { since: null, error: null };
  const since = normalTime(text);
  if (since === null) {
    return { since: null, error: `“${clip(text.trim())}” is not a time. Write it as 2014-04-03 21:13:45, in UTC.` };
  }
  return { since, error: null };
}

/**
 * The larger of the largest `when` so far and a new one. What is no time, or lies beyond `limit`, does not count: a
 * single change dated 2099 as `since` would hide from a resume all that comes before 2099.
 */
export function largest(soFar, when, limit) {
  const time = normalTime(when);
  // In this form, with the zeros at the end of the fraction gone, text order is time order.
  if (time === null || time > limit) return soFar;
  return soFar === null || time > soFar ? time : soFar;
}

/** `now - then` in words, as short as a list of changes needs it. */
export function ago(ms) {
  const [seconds, ahead] = [Math.round(Math.abs(ms) / 1000), ms < 0];
  if (seconds < 2) return "just now";
  const units = [["y", 31_557_600], ["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const [unit, size] = units.find(([, length]) => seconds >= length);
  const span = `${Math.floor(seconds / size)} ${unit}`;
  return ahead ? `in ${span}` : `${span} ago`;
}

/** A time as the list shows it: to the millisecond at most, and what is no time as it came. */
export function shownTime(when) {
  const utc = normalTime(when);
  return utc === null ? when : `${utc.slice(0, 23).replace("T", " ")} UTC`;
}

/** The protocol's form of `seconds` before `now`. */
export function timeBefore(now, seconds) {
  return new Date(now - 1000 * seconds).toISOString().slice(0, 19);
}

/** How long something took, from a person's view. */
export function took(ms) {
  return ms < 1_000 ? `${Math.max(1, Math.round(ms))} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** How far the server's clock is ahead, by its Date header (whole seconds); 0 while that is too little to matter. */
export function clockAhead(date, now) {
  const ahead = Date.parse(date ?? "") + 500 - now;
  return Math.abs(ahead) > 3_000 ? ahead : 0;
}

/** `/` and `/default/` are the feed "default", `/NAME/` is NAME. */
export function feedOf(path) {
  const name = path.split("/").filter(Boolean)[0] ?? "default";
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** 1 s, 2 s, 4 s … 30 s, each scaled into [0.5, 1], so that a thousand tabs do not come back in the same instant. */
export function backoffMs(failures, random) {
  return Math.round(Math.min(MAX_MS, BASE_MS * 2 ** failures) * (0.5 + 0.5 * random));
}

/**
 * How long to wait before the next connection. `healthy`: the lost one had carried something or lived long enough;
 * `failures`: how many in a row before it were not.
 */
export function reconnectMs({ code, healthy, failures }, random) {
  if (REFUSED.has(code)) return Math.round(MAX_MS * (0.5 + 0.5 * random));
  if (GOING_AWAY.has(code) && healthy) return Math.round(GOING_AWAY_MS * (0.5 + 0.5 * random));
  return backoffMs(healthy ? 0 : failures, random);
}

/** What a close code means to the person in front of the page. */
export function closeReason(code, reason) {
  const said = reason ? `: ${clip(reason, 120)}` : "";
  if (REFUSED.has(code)) return `refused by the server (${code}${said})`;
  if (GOING_AWAY.has(code)) return `the server is restarting${said}`;
  return reason ? clip(reason, 120) : "";
}

/** One frame from the server: an update, another message with a `command`, or null for what is not understood. */
export function parseMessage(data) {
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    return null;
  }
  if (typeof message !== "object" || message === null) return null;
  if (message.command !== "update") return message;
  const { bug, when } = message;
  return Number.isSafeInteger(bug) && typeof when === "string" && when.length <= 64 ? message : null;
}

/** What the empty list says: somebody new has to learn what to do next. */
export function emptyTexts(wanted, hasDemo) {
  const [first] = wanted;
  const command = `bugfeed watch ${wanted.slice(0, 5).join(" ") || 1234}`;
  if (first === undefined) {
    const text = "Enter a bug number and press Subscribe. Each change of that bug then appears here the moment the tracker makes it.";
    return { title: "Nothing watched yet", text, command };
  }
  const [which, it] = wanted.length > 1 ? [`one of ${wanted.length} bugs`, "one"] : [`bug ${first}`, "it"];
  const text = `Edit ${it} in the tracker${hasDemo ? ", or press “Change bug” here" : ""}. The change appears here by itself.`;
  return { title: `Waiting for ${which} to change`, text, command };
}

/**
 * One change made with the demo button, on its way back here. The update may overtake the answer to the request, and
 * others may change the same bug meanwhile: the `when` of the answer tells which arrival is ours.
 */
export class Touch {
  #arrivals = [];
  #answered = false;
  #when = null;

  constructor(bug, startedAt) {
    Object.assign(this, { bug, startedAt });
  }

  answered(when) {
    this.#answered = true;
    this.#when = typeof when === "string" ? normalTime(when) : null;
  }

  arrived(bug, when, at) {
    // Ours is among the first, or somebody floods the bug; either way a few are enough.
    if (bug === this.bug && this.#arrivals.length < 1_000) this.#arrivals.push({ when: normalTime(when), at });
  }

  /** Milliseconds from the click to the arrival, or null. `late`: any arrival will do now, rather than none. */
  took({ late }) {
    if (!this.#answered) return null;
    const ours = this.#arrivals.find(({ when }) => this.#when === null || when === this.#when);
    const arrival = ours ?? (late ? this.#arrivals[0] : undefined);
    return arrival ? arrival.at - this.startedAt : null;
  }
}

/**
 * What was shown, so that a catch-up does not show it again. `since` is inclusive and the server rather repeats than
 * omits, so the first entries of most catch-ups are old acquaintances.
 *
 * Two edits within one second are two changes with equal (bug, when): this counts, it does not just remember. If one
 * was shown and the catch-up brings two, the second one is new.
 */
export class Seen {
  #limit;
  #keys = [];
  #clearedBefore = 0;

  constructor(limit = 5_000) {
    this.#limit = limit;
  }

  note(bug, when) {
    this.#keys.push(Seen.key(bug, when));
    if (this.#keys.length <= 2 * this.#limit) return;
    const drop = this.#keys.length - this.#limit;
    this.#keys = this.#keys.slice(drop);
    this.#clearedBefore = Math.max(0, this.#clearedBefore - drop);
  }

  /** The list on the screen was emptied: who then asks for old changes wants to see them. */
  clear() {
    this.#clearedBefore = this.#keys.length;
  }

  /**
   * A one-off filter for one catch-up: true for each repetition. After a reconnect nobody asked for anything, so what
   * was cleared stays away; when a person asks, only what is still on the screen counts as shown.
   */
  filter({ resume }) {
    const left = new Map();
    for (const key of resume ? this.#keys : this.#keys.slice(this.#clearedBefore)) left.set(key, (left.get(key) ?? 0) + 1);
    return (bug, when) => {
      const key = Seen.key(bug, when);
      const count = left.get(key) ?? 0;
      if (count > 0) left.set(key, count - 1);
      return count > 0;
    };
  }

  static key(bug, when) {
    return `${bug} ${normalTime(when) ?? when}`;
  }
}

/**
 * The catch-ups under way, each from the confirmation of its subscribe to the answer of its fence. Between the two, an
 * update of one of its bugs is taken as part of it.
 */
export class CatchUps {
  #seen;
  #running = [];

  constructor(seen) {
    this.#seen = seen;
  }

  /** Takes each op that `Subscriptions.reply` returns. */
  answered(op, result) {
    if (op.command === "subscribe" && op.since && result === "ok") {
      this.#running.push({ op, bugs: new Set(op.bugs), repeated: this.#seen.filter({ resume: op.resume }) });
    }
    if (op.fence) this.#running = this.#running.filter((running) => running.op !== op.fence);
  }

  closed() {
    this.#running = [];
  }

  /** What an update is: "live", "catchup", or "repeated" when it was shown before. */
  kindOf(bug, when) {
    const running = this.#running.find(({ bugs }) => bugs.has(bug));
    if (running?.repeated(bug, when)) return "repeated";
    this.#seen.note(bug, when);
    return running ? "catchup" : "live";
  }
}

/**
 * What the person wants watched, what the server says is watched, and the commands in between. Commands are answered in
 * order, so the first unanswered one with the reply's name is the one it answers.
 */
export class Subscriptions {
  /** What the chips show, in order. */
  wanted = new Set();
  /** As the server last listed it on this connection. */
  active = new Set();
  #sent = [];
  /** Subscribes made while there was no connection, or cut off before their answer. */
  #waiting = [];
  #open = false;

  /** Each returns the commands to send now. An `op` is what the page needs to know again when the answer comes. */
  subscribe(bugs, since = null) {
    for (const bug of bugs) this.wanted.add(bug);
    return this.#request({ command: "subscribe", bugs, since, resume: false });
  }

  unsubscribe(bugs) {
    for (const bug of bugs) this.wanted.delete(bug);
    // What never reached the server needs no unsubscribe, and must not be subscribed later.
    for (const op of this.#waiting) op.bugs = op.bugs.filter((bug) => this.wanted.has(bug));
    return this.#open ? this.#request({ command: "unsubscribe", bugs }) : [];
  }

  /** A new connection: take up what was watched from where it stopped, then what was asked for meanwhile. */
  opened(since) {
    this.#open = true;
    const waiting = this.#waiting.filter((op) => op.bugs.length > 0);
    this.#waiting = [];
    const fresh = new Set(waiting.flatMap((op) => op.bugs));
    const resumed = [...this.wanted].filter((bug) => !fresh.has(bug));
    const ops = resumed.length > 0 ? [{ command: "subscribe", bugs: resumed, since, resume: true }] : [];
    return [...ops, ...waiting].flatMap((op) => this.#request(op));
  }

  closed() {
    this.#open = false;
    this.active.clear();
    const unanswered = this.#sent.filter((op) => op.command === "subscribe" && !op.resume);
    for (const op of unanswered) op.bugs = op.bugs.filter((bug) => this.wanted.has(bug));
    this.#waiting = [...unanswered, ...this.#waiting];
    this.#sent = [];
  }

  /** Takes a reply and returns the op it answers, or null for one that answers nothing. */
  reply({ command, result, bugs }) {
    const index = this.#sent.findIndex((op) => op.command === command);
    if (index < 0) return null;
    const [op] = this.#sent.splice(index, 1);
    if (result === "ok") {
      if (Array.isArray(bugs)) this.active = new Set(bugs.filter(Number.isSafeInteger));
    } else if (op.command === "subscribe" && !op.resume) {
      for (const bug of op.bugs) if (!this.active.has(bug)) this.wanted.delete(bug);
    } else if (op.command === "unsubscribe") {
      for (const bug of op.bugs) if (this.active.has(bug)) this.wanted.add(bug);
    }
    return op;
  }

  #request(op) {
    if (!this.#open) {
      this.#waiting.push(op);
      return [];
    }
    const ops = [op];
    // The protocol has no mark for the end of a catch-up. Asking for the list right behind it makes one: the answer
    // comes after the catch-up, because a connection's commands are answered in order.
    if (op.command === "subscribe" && op.since) ops.push({ command: "subscriptions", fence: op });
    this.#sent.push(...ops);
    return ops.map(frame);
  }
}

function frame({ command, bugs, since }) {
  return JSON.stringify({ command, bugs, since: since ?? undefined });
}
