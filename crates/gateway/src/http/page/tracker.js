// Where bugs are: the tracker's address for a bug, and, for a Bugzilla, what its REST API tells about one. In: a template
// such as https://bugzilla.mozilla.org/show_bug.cgi?id={bug}. Out: links, summaries, what changed. The gateway has no
// part in this: the browser asks, with what rights it has there, so nobody sees here what the tracker would not show.

import { clip, msOf } from "./lib.js";

const BATCH = 50;
const MAX_REQUESTS = 2;
/** Between two requests for summaries: a flood of changes is asked for in batches, not one by one. */
const GATHER_MS = 200;
const ANSWER_MS = 10_000;
const FIRST_PAUSE_MS = 5_000;
const MAX_PAUSE_MS = 300_000;
/** Jobs that may wait; beyond that the newest changes are asked for, since they are what is looked at. */
const MAX_WAITING = 200;
const MAX_KNOWN = 2_000;
/** Fields whose change says nothing to a reader. */
const NOISE = new Set(["cc", "last_change_time", "flagtypes.name"]);

/** `{ link(bug), host, rest }`, where `rest` is the REST API's address or null; or `{ error }`. */
export function parseTemplate(text) {
  const template = String(text).trim();
  if (template.length > 500) return { error: "That address is too long." };
  if (!template.includes("{bug}")) return { error: "Write {bug} where the bug's number belongs." };
  let url;
  try {
    url = new URL(template.replaceAll("{bug}", "1"));
  } catch {
    return { error: "That is no address. Write it as https://bugzilla.example/show_bug.cgi?id={bug}" };
  }
  if (!/^https?:$/.test(url.protocol)) return { error: "Only addresses that begin with https:// or http:// can be linked to." };
  if (url.username || url.password) return { error: "Leave the password out: it would be shared with each link." };
  if (/^https?:\/\/[^/?#]*\{bug\}/i.test(template)) return { error: "{bug} belongs behind the tracker's name, not into it." };
  const script = /^(.*\/)show_bug\.cgi$/.exec(url.pathname)?.[1];
  return {
    template,
    host: url.host,
    link: (bug) => new URL(template.replaceAll("{bug}", String(bug))).href,
    rest: script === undefined ? null : `${url.origin}${script}rest/`,
  };
}

/**
 * Which template counts. One in the page's address (`asked`) comes from whoever made the link: unless it is the saved one
 * or the operator's, the person is asked first, for it would say where bugs lead and who hears of the bugs watched.
 */
export function chooseTemplate({ asked, saved, offered }) {
  const good = (text) => (text && !parseTemplate(text).error ? text.trim() : null);
  const current = good(saved) ?? good(offered);
  const wanted = good(asked);
  if (wanted === null || [good(saved), good(offered)].includes(wanted)) return { current: wanted ?? current, question: null };
  return { current, question: wanted };
}

const nameOf = (field) => field.replace(/^cf_/, "").replaceAll("_", " ");

/** What one entry of a bug's history says, a line for each field. */
export function changeLines(changes) {
  const said = changes.filter(({ field_name: field }) => !NOISE.has(field));
  return said.slice(0, 6).map(({ field_name: field, removed, added }) => {
    const [from, to] = [removed, added].map((value) => clip(String(value ?? ""), 80));
    if (from && to) return `${nameOf(field)}: ${from} → ${to}`;
    return to ? `${nameOf(field)}: ${to}` : `${nameOf(field)}: no longer ${from}`;
  });
}

const secondOf = (when) => Math.floor((msOf(when) ?? 0) / 1000);
const keyOf = (bug, when) => `${bug} ${secondOf(when)}`;

/** What a Bugzilla tells about bugs that changed. Asks sparingly, and less and less where that fails. */
export class Details {
  /** Since when and why nothing is asked, and until when; null while all is well. */
  trouble = null;

  #rest;
  #fetch;
  #now;
  #later;
  #told;
  #bugs = new Map();
  #changes = new Map();
  #summaries = new Set();
  #histories = [];
  #busy = 0;
  #gathering = false;
  #failures = 0;
  #closed = false;

  /** @param told called when more is known, or the trouble changed */
  constructor(rest, { fetch, now, later }, told) {
    this.#rest = rest;
    this.#fetch = fetch;
    this.#now = now;
    this.#later = later;
    this.#told = told;
  }

  /** `{ summary, status }`, or undefined while that is not known. */
  bug(bug) {
    return this.#bugs.get(bug);
  }

  /** What changed then, in lines; undefined while that is not known. */
  what(bug, when) {
    return this.#changes.get(keyOf(bug, when));
  }

  /** A bug is looked at that changed at `when`, or, without it, may have. */
  ask(bug, when = null) {
    this.#summaries.add(bug);
    if (this.#summaries.size > MAX_WAITING) this.#summaries.delete(this.#summaries.values().next().value);
    if (when !== null && this.what(bug, when) === undefined) {
      this.#histories.push({ bug, when });
      this.#histories = this.#histories.slice(-MAX_WAITING);
    }
    this.#gather();
  }

  /** Another tracker is asked from now on. */
  close() {
    this.#closed = true;
  }

  #gather() {
    if (this.#gathering) return;
    this.#gathering = true;
    this.#later(() => {
      this.#gathering = false;
      this.#work();
    }, GATHER_MS);
  }

  #work() {
    while (!this.#closed && !this.trouble && this.#busy < MAX_REQUESTS) {
      const job = this.#next();
      if (!job) return;
      this.#busy += 1;
      job().then(
        () => this.#succeeded(),
        (error) => this.#failed(error),
      );
    }
  }

  #next() {
    if (this.#summaries.size > 0) {
      const batch = [...this.#summaries].slice(-BATCH);
      for (const bug of batch) this.#summaries.delete(bug);
      return () => this.#askSummaries(batch);
    }
    const newest = this.#histories.pop();
    return newest && (() => this.#askHistory(newest));
  }

  async #askSummaries(bugs) {
    const answer = await this.#get(`bug?id=${bugs.join()}&include_fields=id,summary,status,resolution`);
    for (const { id, summary, status, resolution } of answer?.bugs ?? []) {
      if (typeof summary !== "string") continue;
      const words = [status, resolution].filter((word) => typeof word === "string" && word);
      this.#bugs.delete(id);
      this.#bugs.set(id, { summary: clip(summary, 300), status: clip(words.join(" "), 40) });
    }
    forget(this.#bugs);
  }

  async #askHistory({ bug, when }) {
    // The API's bound is exclusive, and its dates are whole seconds.
    const since = `${new Date(1000 * (secondOf(when) - 1)).toISOString().slice(0, 19)}Z`;
    const then = (entry) => Math.abs(secondOf(entry.when ?? entry.time) - secondOf(when)) <= 1;
    const answer = await this.#get(`bug/${bug}/history?new_since=${since}`, true);
    const entries = (answer?.bugs?.[0]?.history ?? []).filter(then);
    let lines = entries.flatMap(({ who, changes }) => {
      const said = changeLines(changes ?? []);
      return said.length > 0 && who ? [...said.slice(0, -1), `${said.at(-1)}, by ${clip(who, 60)}`] : said;
    });
    if (lines.length === 0) {
      const told = await this.#get(`bug/${bug}/comment?new_since=${since}&include_fields=creator,time,text`, true);
      const comments = (told?.bugs?.[bug]?.comments ?? []).filter(then);
      lines = comments.map(({ creator, text }) => `comment by ${clip(creator ?? "?", 60)}: “${clip(text ?? "", 140)}”`);
    }
    this.#changes.set(keyOf(bug, when), lines.slice(0, 8));
    forget(this.#changes);
  }

  /** @param quiet a bug that is not everybody's to see has no history here, and that is no trouble */
  async #get(path, quiet = false) {
    // Cookies go along only where the tracker is the gateway's own site: a Bugzilla answers any site, but no site with
    // cookies. So private bugs stay without a summary here, and their link asks for the login.
    const response = await this.#fetch(this.#rest + path, {
      credentials: "same-origin",
      headers: { Accept: "application/json" },
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    if (quiet && [400, 401, 403, 404].includes(response.status)) return null;
    if (response.ok) return response.json();
    throw Object.assign(new Error(`it answered ${response.status}`), { after: response.headers.get("Retry-After") });
  }

  #succeeded() {
    this.#busy -= 1;
    this.#failures = 0;
    this.#work();
    this.#told();
  }

  #failed({ name, message, after }) {
    this.#busy -= 1;
    if (this.#closed || this.trouble) return;
    // What was asked for is let go: it will be asked for again when it changes, and the rest is in the tracker.
    const pause = Math.max(FIRST_PAUSE_MS * 2 ** this.#failures, 1000 * (Number(after) || 0));
    const ms = Math.min(pause, MAX_PAUSE_MS);
    this.#failures += 1;
    // A browser does not say why: no network, no such API, or an API that does not speak to other sites' pages.
    const why = { TypeError: "it cannot be reached from this page", TimeoutError: "it does not answer" }[name] ?? message;
    this.trouble = { why, until: this.#now() + ms };
    this.#later(() => {
      this.trouble = null;
      this.#work();
      this.#told();
    }, ms);
    this.#told();
  }
}

function forget(map) {
  while (map.size > MAX_KNOWN) map.delete(map.keys().next().value);
}
