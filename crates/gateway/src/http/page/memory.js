// What survives a reload and a visit. In: two storages of the browser, and what the page shows. Out: where to resume.
//
// The tab's own storage (sessionStorage) keeps the list and the cursor together, in one record written at once: the
// cursor says up to where everything is *in that list*, so a reload, a crash or a tab that the phone put to sleep
// resumes exactly where its list ends, and shows each change once.
//
// The browser's storage (localStorage) keeps one cursor for each set of bugs, so that a bookmark opened tomorrow in a
// new tab tells what changed since the last visit. It is keyed by feed and set (by the gateway's path too, where that is not the site's root), because a cursor speaks for the bugs
// that were watched with it, and it does not serve reloads, because another tab with the same bugs may be further on.

/** How many sets of bugs are remembered, the ones visited last; and how long a set's key may be. */
const MAX_VISITS = 20;
const MAX_KEY = 2_000;
const VISITS = "bugfeed:visits";

const keyOf = (feed, bugs) => `${feed}#${[...bugs].sort((a, b) => a - b).join()}`;

export class Memory {
  #tab;
  #browser;
  #feed;

  /** Storages may be null where the browser forbids them; then nothing is remembered. `feed`: its place on this site. */
  constructor(tab, browser, feed) {
    this.#tab = tab;
    this.#browser = browser;
    this.#feed = feed;
  }

  /** For these bugs: the list of this tab, its filter, and where to resume (null: from now on). */
  load(bugs) {
    const record = read(this.#tab, `bugfeed:${this.#feed}`) ?? {};
    const text = (value) => (typeof value === "string" && value !== "" ? value : null);
    const known = new Set(Array.isArray(record.bugs) ? record.bugs : []);
    const kept = {
      entries: Array.isArray(record.entries) ? record.entries.filter(isEntry) : [],
      filter: text(record.filter) ?? "",
    };
    // With more bugs than before the cursor brings more than was asked for; without it, something would be missed.
    if (bugs.some((bug) => known.has(bug))) return { ...kept, cursor: text(record.cursor) };
    const visit = this.#visits().find(([key]) => key === keyOf(this.#feed, bugs));
    return { ...kept, cursor: bugs.length > 0 ? text(visit?.[1]) : null };
  }

  save({ bugs, cursor, entries, filter }) {
    write(this.#tab, `bugfeed:${this.#feed}`, { bugs, cursor, entries, filter });
    const key = keyOf(this.#feed, bugs);
    if (bugs.length === 0 || !cursor || key.length > MAX_KEY) return;
    const others = this.#visits().filter(([other]) => other !== key);
    write(this.#browser, VISITS, [[key, cursor], ...others].slice(0, MAX_VISITS));
  }

  #visits() {
    const visits = read(this.#browser, VISITS);
    return Array.isArray(visits) ? visits.filter(Array.isArray) : [];
  }
}

function isEntry(entry) {
  if (typeof entry !== "object" || entry === null) return false;
  const { kind, bug, bugs, when } = entry;
  if (kind === "gap") return Array.isArray(bugs) && bugs.every(Number.isSafeInteger) && typeof when === "string";
  return (kind === "live" || kind === "catchup") && Number.isSafeInteger(bug) && typeof when === "string";
}

function read(storage, key) {
  try {
    return JSON.parse(storage?.getItem(key) ?? "null");
  } catch {
    return null;
  }
}

function write(storage, key, value) {
  try {
    storage?.setItem(key, JSON.stringify(value));
  } catch {
    // Full or forbidden. What was written before is older and still true.
  }
}
