// The tracker as this page shows it: the settings, the question about an address that came with a link, and the answers
// of the tracker's API. In: templates. Out: links and texts for the list, undefined where nothing is known.

import { $, setText } from "./dom.js";
import { Details, chooseTemplate, parseTemplate } from "./tracker.js";

const SAVED = "bugfeed:tracker:";

export class Links {
  #feed;
  #storage;
  #told;
  #offered = null;
  #asked;
  #saved;
  #tracker = null;
  #details = null;

  /**
   * @param feed its place on this site: what is saved is saved for it
   * @param told called when links or texts changed
   */
  constructor(feed, storage, told) {
    this.#feed = feed;
    this.#storage = storage;
    this.#told = told;
    this.#asked = new URLSearchParams(location.search).get("tracker");
    this.#saved = this.#read();
    $("tracker-form").addEventListener("submit", (event) => this.#submit(event));
    $("tracker-remove").addEventListener("click", () => this.#save(null));
    $("tracker-accept").addEventListener("click", () => this.#save(this.#asked));
    $("tracker-refuse").addEventListener("click", () => this.#refuse());
  }

  /** Begins with what the address and the storage say. */
  start() {
    if (this.#asked !== null) this.#say(parseTemplate(this.#asked).error ?? "");
    this.#choose();
  }

  /** The operator's template, once it is known. */
  offer(template) {
    this.#offered = template;
    this.#choose();
  }

  link(bug) {
    return this.#tracker?.link(bug);
  }

  bug(bug) {
    return this.#details?.bug(bug);
  }

  what(bug, when) {
    return this.#details?.what(bug, when);
  }

  /** Bugs that changed at `when`, or, without it, may have. */
  ask(bugs, when) {
    for (const bug of bugs.slice(0, 100)) this.#details?.ask(bug, when);
  }

  /** What a shared address says beside the bugs. */
  get query() {
    const template = this.#tracker?.template;
    return template && template !== this.#offered ? `?tracker=${encodeURIComponent(template)}` : "";
  }

  #choose() {
    const { current, question } = chooseTemplate({ asked: this.#asked, saved: this.#saved, offered: this.#offered });
    $("tracker-question").hidden = question === null;
    if (question !== null) setText($("tracker-host"), parseTemplate(question).host);
    if ((this.#tracker?.template ?? null) === current) return;
    this.#details?.close();
    this.#tracker = current === null ? null : parseTemplate(current);
    const tools = { fetch: (...args) => fetch(...args), now: () => Date.now(), later: (...args) => setTimeout(...args) };
    const told = () => {
      this.#show();
      this.#told(false);
    };
    this.#details = this.#tracker?.rest ? new Details(this.#tracker.rest, tools, told) : null;
    $("tracker").value = current ?? "";
    this.#show();
    this.#told(true);
  }

  #show() {
    const tracker = this.#tracker;
    $("tracker-remove").hidden = this.#saved === null;
    const parts = [];
    if (tracker) parts.push(`Bugs are links to ${tracker.host}.`);
    if (tracker && !tracker.rest) parts.push("Summaries are shown for a Bugzilla (…/show_bug.cgi?id={bug}).");
    if (tracker?.rest && !this.#details.trouble) parts.push("Summaries come from its public API, asked by your browser.");
    if (this.#details?.trouble) {
      const { why, until } = this.#details.trouble;
      const seconds = Math.max(1, Math.round((until - Date.now()) / 1000));
      parts.push(`No summaries: ${why}. It is asked again in ${seconds} s.`);
    }
    setText($("tracker-state"), parts.join(" "));
    $("tracker-state").dataset.kind = this.#details?.trouble ? "warn" : "";
  }

  #submit(event) {
    event.preventDefault();
    const { error, template } = parseTemplate($("tracker").value);
    this.#say(error ?? "");
    if (error) $("tracker").focus();
    else this.#save(template);
  }

  #say(error) {
    $("tracker-error").textContent = error;
    $("tracker").setAttribute("aria-invalid", String(error !== ""));
    if (error) $("tracker-settings").open = true;
  }

  #save(template) {
    this.#saved = template;
    // What was just chosen counts, whatever the address says.
    this.#asked = null;
    this.#say("");
    try {
      if (template === null) this.#storage?.removeItem(SAVED + this.#feed);
      else this.#storage?.setItem(SAVED + this.#feed, template);
    } catch {
      // Without storage it holds until the page is left.
    }
    this.#choose();
    this.#show();
    $("tracker-settings").querySelector("summary").focus({ preventScroll: true });
  }

  #refuse() {
    this.#asked = null;
    this.#choose();
    this.#told(true);
    $("changes").focus({ preventScroll: true });
  }

  #read() {
    try {
      return this.#storage?.getItem(SAVED + this.#feed) ?? null;
    } catch {
      return null;
    }
  }
}
