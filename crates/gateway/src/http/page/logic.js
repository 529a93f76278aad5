// The live page's small decisions, without a socket, a clock or a document: what goes in are arguments, what comes out
// are return values, so that `node --test tests/page/` can check them.

/** The most subscriptions the gateway accepts, and so the most worth sending in one command. */
export const MAX_BUGS = 10_000;

export const clip = (text, max = 24) => (text.length > max ? `${text.slice(0, max)}…` : text);

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

/** The bugs that an address names after its `#`; none is no error there. */
export function bugsOfHash(hash) {
  const text = hash.replace(/^#/, "");
  if (text === "") return { bugs: [], error: null };
  try {
    const { bugs, error } = parseBugs(decodeURIComponent(text));
    return { bugs, error: error && `In this page's address: ${error}` };
  } catch {
    return { bugs: [], error: `In this page's address: “${clip(text)}” is no list of bug numbers.` };
  }
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

/** Milliseconds since 1970, or null when it is no time. */
export function msOf(when) {
  const utc = normalTime(when);
  return utc === null ? null : Date.parse(`${utc}Z`);
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

/** `now - then` in words, as short as a list of changes needs it. */
export function ago(ms) {
  const [seconds, ahead] = [Math.round(Math.abs(ms) / 1000), ms < 0];
  if (seconds < 2) return "just now";
  const units = [["y", 31_557_600], ["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const [unit, size] = units.find(([, length]) => seconds >= length);
  const span = `${Math.floor(seconds / size)} ${unit}`;
  return ahead ? `in ${span}` : `${span} ago`;
}

/** A time for its tooltip: UTC to the millisecond at most, and what is no time as it came. */
export function shownTime(when) {
  const utc = normalTime(when);
  return utc === null ? when : `${utc.slice(0, 23).replace("T", " ")} UTC`;
}

/** The same where the person is: today's without the date. */
export function localTime(when, now, locale, timeZone) {
  const ms = msOf(when);
  if (ms === null) return when;
  const [day, today] = [ms, now].map((at) => new Date(at).toLocaleDateString("en", { timeZone }));
  const format = { timeZone, hourCycle: "h23", timeStyle: "medium", dateStyle: day === today ? undefined : "medium" };
  return new Date(ms).toLocaleString(locale, format);
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

/** Below the gateway's own path, `root`: nothing and `default/` are the feed "default", `NAME/` is NAME. */
export function feedOf(path, root = "/") {
  const below = path.startsWith(root) ? path.slice(root.length) : "";
  const name = below.split("/").filter(Boolean)[0] ?? "default";
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** What is remembered is kept under this name: two gateways may lie below two paths of one site. */
export function placeOf(feed, root) {
  return root === "/" ? feed : `${root} ${feed}`;
}

/** Why the connection is gone, to the person in front of the page; nothing where it says nothing. */
export function whyLost(reason) {
  if (/^connection lost \((1001|1012)\)$/.test(reason)) return "the gateway is restarting";
  return /^connection lost/.test(reason) ? "" : clip(reason, 120);
}

/** The gateway's word on a resume, in plain words. `count`: changes that were caught up on, once that is known. */
export function verdictText(replay, count) {
  const caught = count > 0 ? `, ${count} caught up` : "";
  const texts = {
    complete: `Back where you were: nothing missed${caught}.`,
    latest: `Away for long: of each bug that changed, the newest change is shown${caught}.`,
    gap: "Something may have been missed, and nobody can tell what: look at all bugs.",
  };
  if (replay === null) return "Shows changes from now on.";
  return texts[replay] ?? texts.gap;
}

/** What somebody is told while the gateway itself hears nothing. `since`: when that began, if it is known. */
export function pausedText(since, now) {
  const ms = since === null ? null : msOf(since);
  const when = ms === null ? "" : `, since ${localTime(since, now)}`;
  return `No changes can arrive just now${when}: the gateway does not hear from the tracker. What changes meanwhile is shown as soon as it does.`;
}

/** What a close code says, by section 3 of PROTOCOL.md. */
export function closeMeaning(code) {
  const meanings = {
    1000: "closed as asked",
    1001: "the other side goes away: reconnect",
    1002: "frames against RFC 6455: mend the client",
    1003: "a binary message: send text",
    1005: "no code given",
    1006: "no close frame: refused, or the connection broke",
    1007: "text that is not UTF-8",
    1009: "a message over the limit: split the command",
    1012: "the gateway restarts: reconnect, with back-off",
    4401: "a token is needed, or it has expired: connect with another one",
    4403: "the token was taken away: connect with another one",
  };
  return meanings[code] ?? "reconnect, with back-off";
}

/** Whether an entry of the timeline is one that the filter asks for: every word is in its number or its texts. */
export function matches(query, texts) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const text = texts.join("\n").toLowerCase();
  return words.every((word) => text.includes(word.replace(/^#(?=\d)/, "")));
}

/** What the empty list says: somebody new has to learn what to do next, and nobody may be promised what cannot be. */
export function emptyTexts(wanted, hasDemo, state = "open") {
  const [first] = wanted;
  const later = {
    connecting: "Connecting to the gateway…",
    paused: "No changes can arrive just now. What changes meanwhile is shown as soon as they can.",
    waiting: "There is no connection just now. What changes meanwhile is shown when it is back, or you are told that it cannot be known.",
    closed: "There is no connection, and it is not tried again by itself: press “Retry now”.",
  };
  if (first === undefined) {
    const text = later[state] ?? "Each change of that bug then appears here the moment the tracker makes it.";
    return { title: "Nothing watched yet", text: `Enter a bug number and press Subscribe. ${text}` };
  }
  const [which, it] = wanted.length > 1 ? [`one of ${wanted.length} bugs`, "one"] : [`bug ${first}`, "it"];
  if (later[state]) return { title: `Nothing heard yet of ${wanted.length > 1 ? `${wanted.length} bugs` : which}`, text: later[state] };
  const text = `Edit ${it} in the tracker${hasDemo ? ", or press “Change bug” here" : ""}. The change appears here by itself.`;
  return { title: `Waiting for ${which} to change`, text };
}

/** The command that shows the same in a terminal. `program`: how it is called here, if it runs on the person's machine. */
export function terminalCommand(program, address, wanted) {
  const bugs = wanted.slice(0, 5).join(" ") || "1234";
  const url = address === "ws://127.0.0.1:8844/" ? "" : ` --url ${address}`;
  return `${program ?? "bugfeed"} watch ${bugs}${url}`;
}

/** A change is late, when it comes so much later than its date; and its date is wrong, when it lies ahead by so much. */
const LATE_MS = 5 * 60_000;
const AHEAD_MS = 2 * 60_000;
const DAY_MS = 86_400_000;

/** What is odd about the date of a change that arrived at `at`: "ahead", "late", "old", or null. */
export function oddDate({ kind, when, at }) {
  const ms = msOf(when);
  if (kind !== "live" || ms === null || !Number.isFinite(at)) return null;
  if (ms - at > AHEAD_MS) return "ahead";
  if (at - ms > DAY_MS) return "old";
  return at - ms > LATE_MS ? "late" : null;
}

/** From so much on, a clock or a time zone is wrong; and from so much on, it is something else. */
const ZONE_MS = [25 * 60_000, 26 * 3_600_000];
/** Differences so alike come from a clock; where the feed itself is late, it catches up, and they differ. */
const ALIKE_MS = 2 * 60_000;
/** One may be a late change; so many in a row, all behind by the same, are a clock. */
const IN_A_ROW = 3;

/** What to say when fresh changes are dated hours ahead, or all the same hours behind; empty otherwise. */
export function clockHint(entries) {
  const behind = entries
    .slice(-50)
    .filter(({ kind, when, at }) => kind === "live" && Number.isFinite(at) && msOf(when) !== null)
    .slice(-IN_A_ROW)
    .map(({ when, at }) => at - msOf(when));
  const off = behind.at(-1) ?? 0;
  const [least, most] = ZONE_MS;
  if (Math.abs(off) < least || Math.abs(off) > most) return "";
  const isClock = off < 0 || (behind.length === IN_A_ROW && behind.every((ms) => Math.abs(ms - off) < ALIKE_MS));
  if (!isClock) return "";
  const hours = Math.round(Math.abs(off) / 1_800_000) / 2;
  const [count, way] = [hours === 1 ? "1 hour" : `${hours} hours`, off < 0 ? "ahead of" : "behind"];
  return `New changes are dated about ${count} ${way} the clock: perhaps the tracker writes another time zone than the feed is told (--timezone).`;
}

/**
 * A one-off filter for one catch-up by date, which repeats what is on the screen: true for each repetition. Two edits
 * within one second are two changes with equal (bug, when), so it counts: if one is shown and two come, one is new.
 */
export function repeats(entries) {
  const left = new Map();
  const key = (bug, when) => `${bug} ${normalTime(when) ?? when}`;
  for (const { bug, when } of entries) left.set(key(bug, when), (left.get(key(bug, when)) ?? 0) + 1);
  return (bug, when) => {
    const count = left.get(key(bug, when)) ?? 0;
    if (count > 0) left.set(key(bug, when), count - 1);
    return count > 0;
  };
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
