// The list of changes: newest first, bounded, searchable. In: changes, gaps, and what the tracker tells about bugs. Out:
// rows. A burst is drawn once per frame, and a hidden tab draws nothing.

import { $, element, perFrame, setText } from "./dom.js";
import { ago, clockHint, localTime, matches, msOf, normalTime, oddDate, shownTime } from "./lib.js";

const MAX_ENTRIES = 500;
/** Bugs of a gap that are listed one by one. */
const MAX_LISTED = 30;
/** How an entry is marked, and what that means: by how it came, or by what is odd about its date. */
const MARKS = {
  live: ["live", "Arrived the moment it was made"],
  catchup: ["caught up", "Made earlier, and delivered now"],
  late: ["late", "Arrived just now, some time after the tracker's date of it"],
  old: ["old date", "Arrived just now, but the tracker says that it was made long ago"],
  ahead: ["date ahead", "Arrived just now, but by the tracker's date it is still to come"],
};

export class Timeline {
  /** Oldest first. `{ kind: "live" | "catchup", bug, when, at }` (`at`: when it came) or `{ kind: "gap", bugs, when }`. */
  entries = [];
  filter = "";

  #now;
  #tracker;
  #changed;
  #total = 0;
  /** Entries that are not on the screen yet. */
  #fresh = 0;
  #rows = new Map();

  /**
   * @param now the server's clock in ms
   * @param tracker `link(bug)`, `bug(bug)` and `what(bug, when)`, each undefined where there is no answer
   * @param changed called when there is something to see, or nothing any more
   */
  constructor(now, tracker, changed) {
    this.#now = now;
    this.#tracker = tracker;
    this.#changed = changed;
    $("filter").addEventListener("input", () => this.search($("filter").value));
    $("clear").addEventListener("click", () => this.clear());
  }

  /** Begins with what an earlier load of this page showed. */
  restore(entries, filter) {
    this.entries = entries.slice(-MAX_ENTRIES);
    this.#total = this.#fresh = this.entries.length;
    $("filter").value = filter;
    this.filter = filter;
    this.#draw("");
  }

  add(entry) {
    this.entries.push(entry);
    this.#total += 1;
    this.#fresh += 1;
    if (this.entries.length > 2 * MAX_ENTRIES) this.entries = this.entries.slice(-MAX_ENTRIES);
    this.draw();
  }

  search(text) {
    this.filter = text;
    this.refresh();
  }

  clear() {
    this.entries = [];
    this.#total = this.#fresh = 0;
    this.#draw("");
    // The button is about to be disabled, and the focus should not go with it.
    $("changes").focus();
  }

  draw = perFrame(() => this.#draw("arrived"));

  /** More is known about bugs, or something else is looked for. */
  refresh = perFrame(() => {
    for (const [entry, row] of this.#rows) this.#fill(row, entry);
    this.#showCounts();
  });

  showAges() {
    for (const [{ when }, row] of this.#rows) {
      const ms = msOf(when);
      if (ms !== null) setText(row.querySelector(".ago"), ago(this.#now() - ms));
    }
  }

  #draw(className) {
    this.entries = this.entries.slice(-MAX_ENTRIES);
    const fresh = this.#fresh > 0 ? this.entries.slice(-this.#fresh) : [];
    this.#fresh = 0;
    const rows = fresh.map((entry) => {
      const row = entry.kind === "gap" ? this.#newGap(entry) : this.#newRow(entry);
      row.classList.toggle("arrived", className !== "");
      this.#rows.set(entry, row);
      this.#fill(row, entry);
      return row;
    });
    $("updates").prepend(...rows.reverse());
    const kept = new Set(this.entries);
    for (const [entry, row] of this.#rows) {
      if (kept.has(entry)) continue;
      row.remove();
      this.#rows.delete(entry);
    }
    this.showAges();
    this.#showCounts();
  }

  #newRow(entry) {
    const { bug, when, kind } = entry;
    const odd = oddDate(entry);
    const row = element("li", "entry");
    Object.assign(row.dataset, { bug, when, kind });
    if (odd) row.dataset.odd = odd;
    const [mark, meaning] = MARKS[odd ?? kind];
    const label = Object.assign(element("span", "kind", mark), { title: meaning });
    row.append(this.#newBug(bug), element("div", "what"), this.#newTime(when, odd && "changed at "), label);
    return row;
  }

  #newGap({ bugs, when }) {
    const row = element("li", "entry gap");
    Object.assign(row.dataset, { kind: "gap", bugs, when });
    const what = element("div", "what");
    const which = bugs.length === 1 ? "This bug" : `These ${bugs.length} bugs`;
    const list = element("p", "missed");
    list.append(...bugs.slice(0, MAX_LISTED).map((bug) => this.#newBug(bug)));
    if (bugs.length > MAX_LISTED) list.append(element("span", "", `and ${bugs.length - MAX_LISTED} more`));
    const advice = "may have changed: the gateway cannot tell what was missed. Look at all of them.";
    what.append(element("p", "advice", `${which} ${bugs.length === 1 ? advice.replace("all of them", "it") : advice}`), list);
    row.append(element("span", "bug", "Gap"), what, this.#newTime(when));
    return row;
  }

  #newBug(bug) {
    // A link as soon as it is known where to.
    const name = element("a", "bug", `Bug ${bug}`);
    name.dataset.number = bug;
    Object.assign(name, { target: "_blank", rel: "noreferrer" });
    return name;
  }

  #newTime(when, before) {
    const box = element("div", "time");
    const time = element("time", "when", `${before ?? ""}${localTime(when, this.#now())}`);
    const utc = normalTime(when);
    if (utc) time.dateTime = `${utc}Z`;
    time.title = shownTime(when);
    box.append(element("span", "ago"), time);
    return box;
  }

  #fill(row, entry) {
    const texts = entry.kind === "gap" ? ["gap"] : [];
    for (const name of row.querySelectorAll("[data-number]")) {
      const bug = Number(name.dataset.number);
      const link = this.#tracker.link(bug);
      if (link) name.href = link;
      else name.removeAttribute("href");
      const known = this.#tracker.bug(bug);
      name.title = entry.kind === "gap" ? (known?.summary ?? "") : "";
      texts.push(name.textContent, known?.summary ?? "", known?.status ?? "");
    }
    if (entry.kind !== "gap") texts.push(...this.#fillWhat(row, entry));
    row.hidden = !matches(this.filter, texts);
  }

  /** The summary and what changed; returns their texts. */
  #fillWhat(row, { bug, when }) {
    const known = this.#tracker.bug(bug);
    const lines = this.#tracker.what(bug, when) ?? [];
    const state = JSON.stringify([known, lines]);
    if (row.dataset.known === state) return lines;
    row.dataset.known = state;
    const parts = [];
    if (known) {
      const summary = element("p", "summary", known.summary);
      if (known.status) summary.append(" ", element("span", "status", known.status));
      parts.push(summary);
    }
    parts.push(...lines.map((line) => element("p", "changed", line)));
    row.querySelector(".what").replaceChildren(...parts);
    return lines;
  }

  #showCounts() {
    const rows = [...this.#rows.values()];
    const shown = rows.filter((row) => !row.hidden).length;
    const some = this.filter.trim() !== "";
    setText($("update-count"), this.#total === 0 ? "" : some ? `${shown} of ${rows.length}` : String(this.#total));
    $("clear").disabled = rows.length === 0;
    $("search").hidden = rows.length === 0 && !some;
    $("no-match").hidden = shown > 0 || rows.length === 0;
    $("bound-note").hidden = this.#total <= rows.length;
    setText($("bound-note"), `The newest ${rows.length} of ${this.#total} changes; older ones are not kept on this page.`);
    $("empty").hidden = rows.length > 0;
    const hint = clockHint(this.entries);
    $("clock-hint").hidden = hint === "";
    setText($("clock-hint"), hint);
    this.#changed();
  }
}
