// The demo tracker of the all-in-one: changes a bug as a developer's edit would, and times the way back to this page.

import { $, setText } from "./dom.js";
import { Touch, parseBugs, took } from "./lib.js";

const DEMO_BUG = 1234;
const TIMEOUT_MS = 10_000;

export class Demo {
  isThere = false;

  #watch;
  /** The change under way, one at a time. */
  #touch = null;
  /** Called whenever the subscriptions changed, for who waits for one. */
  #waiter = null;
  #edited = false;

  constructor(watch) {
    this.#watch = watch;
    $("demo-form").addEventListener("submit", (event) => this.#submit(event));
    $("demo-bug").addEventListener("input", () => {
      this.#edited = true;
      this.show();
    });
    $("try").addEventListener("click", () => {
      $("demo-bug").value = DEMO_BUG;
      this.#change(DEMO_BUG);
      // The button is gone now; what it did can be repeated here. On a phone that is below the change that comes.
      $("demo-touch").focus({ preventScroll: true });
    });
  }

  show() {
    this.#waiter?.();
    const { bugs } = this.#watch;
    const [first = DEMO_BUG] = bugs;
    if (!this.#edited && $("demo-bug").value !== String(first)) $("demo-bug").value = first;
    $("demo").hidden = !this.isThere;
    $("welcome").hidden = !this.isThere || bugs.length > 0;
    const bug = this.#bug();
    setText($("demo-touch"), bug === null ? "Change bug" : `Change bug ${bug}`);
    $("demo-touch").setAttribute("aria-disabled", String(this.#touch !== null));
    const isWatched = bug === null || bugs.includes(bug);
    setText($("demo-hint"), isWatched ? "" : `Bug ${bug} is not watched yet: this subscribes to it first.`);
  }

  /** A change came in. */
  arrived(bug, when) {
    this.#touch?.arrived(bug, when, performance.now());
    this.#settle(false);
  }

  #bug() {
    const { bugs, error } = parseBugs($("demo-bug").value);
    return error || bugs.length !== 1 ? null : bugs[0];
  }

  #submit(event) {
    event.preventDefault();
    const bug = this.#bug();
    if (bug === null) this.#say("Enter one bug number, for example 1234.", "error");
    else this.#change(bug);
  }

  async #change(bug) {
    if (this.#touch !== null) return;
    const touch = new Touch(bug, performance.now());
    this.#touch = touch;
    this.#say(`Changing bug ${bug}…`);
    this.show();
    try {
      await this.#subscribed(bug);
      touch.startedAt = performance.now();
      touch.answered(await post(bug));
      this.#settle(false);
      setTimeout(() => this.#touch === touch && this.#settle(true), TIMEOUT_MS);
    } catch (error) {
      this.#finish(error.message, "error");
    }
    this.#waiter = null;
  }

  /** Resolves once the gateway has confirmed the subscription; until then a change would be missed. */
  #subscribed(bug) {
    const watch = this.#watch;
    if (watch.active.has(bug)) return Promise.resolve();
    if (watch.state !== "open") this.#say("Waiting for the connection…");
    return new Promise((resolve, reject) => {
      if (!watch.bugs.includes(bug)) watch.subscribe([bug]);
      this.#waiter = () => {
        if (watch.active.has(bug)) resolve();
        else if (!watch.bugs.includes(bug)) reject(new Error(`Bug ${bug} could not be subscribed.`));
      };
    });
  }

  #settle(late) {
    const touch = this.#touch;
    const ms = touch?.took({ late }) ?? null;
    if (ms !== null) this.#finish(`Bug ${touch.bug}: arrived after ${took(ms)}`, "ok");
    else if (late) this.#finish(`Bug ${touch.bug} was changed, but no update arrived within ${TIMEOUT_MS / 1000} s.`, "error");
  }

  #say(text, kind = "") {
    $("demo-latency").textContent = text;
    $("demo-latency").dataset.kind = kind;
  }

  #finish(text, kind) {
    this.#touch = null;
    this.#say(text, kind);
    this.show();
  }
}

/** Makes the change; returns the time it was given. */
async function post(bug) {
  const response = await fetch(new URL("../demo/touch", import.meta.url), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ bugs: [bug] }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).catch(() => {
    throw new Error("The demo tracker does not answer.");
  });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer?.result === "ok") return answer.when;
  throw new Error(typeof answer?.error === "string" ? answer.error.slice(0, 300) : `The demo tracker answered ${response.status}.`);
}
