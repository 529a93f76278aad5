// SPDX-License-Identifier: MIT OR Apache-2.0
/**
 * What waits until somebody deals with it: for a loop (`for await`), for a listener that comes later, and gaps that are
 * told later. bugfeed.js loads this module when it has reason to; where somebody listens from the start, it has none.
 */

const ALL = "all";
/** Events that may wait, and twice the bugs (who watches all: those that changed); beyond that, only the newest change of each bug. */
const MAX_WAITING = 10_000;
/** No gap is told later than this, in ms. */
const MAX_SPREAD_MS = 300_000;

/**
 * Of what waits, in order: all but those changes and cursors that later ones outdate. A later gap becomes part of the
 * first one: who asks the tracker then, which is after both, learns of both.
 */
const newest = (waiting) => {
  const kept = new Map();
  for (const entry of waiting) {
    const [item] = entry;
    const key = item?.bug ?? (item?.type === "gap" ? "gap" : item);
    const gap = key === "gap" && kept.get(key);
    if (gap) gap[0] = { ...gap[0], ...item, bugs: [...new Set([...gap[0].bugs, ...item.bugs])] };
    else {
      kept.delete(key);
      kept.set(key, entry);
    }
  }
  return [...kept.values()];
};

export class Queue {
  #waiting = []; // What nobody has dealt with, each with the cursor to store when somebody has.
  #reader; // Who iterates…
  #answer; // …what it was promised…
  #hand; // …the cursor of what it deals with just now…
  #wake; // …and what tells it to look again.
  #soon; // The bugs of a gap that is told later. Until then, nothing is stored…
  #dealt; // …but what would be.
  #timers = []; // The first of them tells it.
  #left = 0; // How much was left when only the newest was kept: who watches all may have any number of bugs.
  #isClosed = false;
  #calls;
  #feed;
  #tell;
  #store;
  #BugfeedError;

  /**
   * @param {((queue: Queue) => void)[]} calls what is to be done when this is there
   * @param feed whose events these are
   * @param {(type: string, detail: object) => boolean | undefined} tell dispatches an event; whether somebody heard it
   * @param {(cursor: string | null) => void} store
   * @param {typeof import("./bugfeed.js").BugfeedError} BugfeedError
   */
  constructor(calls, feed, tell, store, BugfeedError) {
    this.#calls = calls;
    this.#feed = feed;
    this.#tell = tell;
    this.#store = store;
    this.#BugfeedError = BugfeedError;
    // When the feed knows that this is there.
    queueMicrotask(() => {
      for (const call of this.#calls) call(this);
      this.#calls = null;
    });
  }

  /** What is to be done, as said to an array until this was there. */
  push(call) {
    if (this.#calls) this.#calls.push(call);
    else call(this);
  }

  unshift(call) {
    call(this);
  }

  /**
   * Something came. A gap that many are told of is told after a random time, so that they do not all ask at once. Another
   * gap meanwhile is told with it, as soon as either is due.
   */
  add(item, cursor, spread) {
    const wait = typeof spread === "number" && spread > 0 ? Math.random() * Math.min(spread, MAX_SPREAD_MS) : 0;
    const isLater = item?.type === "gap" && (this.#soon || wait > 0) && !this.#isClosed;
    if (isLater) this.#soon = new Set([...(this.#soon ?? []), ...(item.all ? [ALL] : item.bugs)]);
    this.#enter("push", [isLater ? null : item, cursor]);
    if (!isLater) return;
    if (wait === 0) return this.#due();
    const timer = setTimeout(() => this.#due(), wait);
    // A bot that has ended otherwise is not kept alive by it.
    timer.unref?.();
    this.#timers.push(timer);
  }

  /** Before all that waits goes the gap, with the cursor of what was dealt with meanwhile: that is stored when it is. */
  #due() {
    const watched = new Set(this.#feed.bugs);
    const bugs = [...this.#soon].filter((bug) => watched.has(bug));
    const gap = this.#soon.has(ALL) && this.#feed.all ? { bugs: [], all: true } : bugs.length && { bugs };
    const cursor = this.#hand ?? this.#dealt;
    this.#soon = this.#hand = this.#dealt = null;
    this.#timers.splice(0).forEach(clearTimeout);
    if (this.#feed.state !== "closed") this.#enter("unshift", [gap ? { type: "gap", ...gap } : null, cursor]);
  }

  #enter(how, entry) {
    if (this.#isClosed) return;
    if (!this.#waiting.length) this.#left = 0;
    const most = MAX_WAITING + 2 * Math.max(this.#feed.bugs.length, this.#left);
    if (this.#waiting[how](entry) > most) {
      this.#waiting = newest(this.#waiting);
      this.#left = this.#waiting.length;
    }
    this.#wake?.();
    this.#offer([entry]);
  }

  /** Somebody listens who did not before. */
  offer() {
    // What waits for a reader, listeners have heard.
    if (!this.#reader) this.#offer([...this.#waiting]);
  }

  /** Tells. What was heard is dealt with, and with it what waited before it: who listens does not care for that. */
  #offer(entries) {
    for (const entry of entries) {
      // By one of those who heard.
      if (this.#isClosed) return;
      const [item] = entry;
      const isHeard = item && this.#tell(item.type, item);
      const at = this.#waiting.indexOf(entry);
      if (this.#reader || !(isHeard || (!item && at === 0))) continue;
      const first = item instanceof Error ? at : 0;
      // Not there any more: a listener has closed the feed.
      const dealt = [...this.#waiting.splice(first, at + 1 - first), entry];
      this.#save(dealt.findLast(([, cursor]) => cursor)?.[1]);
    }
  }

  #save(cursor) {
    this.#dealt = cursor ?? this.#dealt;
    if (this.#soon) return;
    this.#store(this.#dealt);
    this.#dealt = null;
  }

  /**
   * The next one for a reader. Who asks again before there was an answer gets the same one, so that nothing is lost to a
   * question that nobody waits for any more.
   */
  async next(reader) {
    if ((this.#reader ??= reader) !== reader) throw new this.#BugfeedError("has a reader already");
    if (!this.#answer) {
      // By then it may be another reader's.
      const answer = this.#take(reader).finally(() => this.#answer === answer && (this.#answer = null));
      this.#answer = answer;
    }
    return this.#answer;
  }

  async #take(reader) {
    // Asked for the next one: this one is dealt with.
    this.#save(this.#hand);
    this.#hand = null;
    while (this.#reader === reader) {
      const entry = this.#waiting.shift();
      const [item, cursor] = entry ?? [];
      if (item instanceof Error) {
        this.#reader = null;
        throw item;
      }
      if (item) {
        this.#hand = cursor;
        return { value: item, done: false };
      }
      if (entry) this.#save(cursor);
      else if (this.#feed.state === "closed") this.#reader = null;
      else await new Promise((wake) => (this.#wake = wake));
    }
    return { value: undefined, done: true };
  }

  /** The reader goes; what waits, waits for another. What it had in hand is not stored before something else is. */
  leave(reader) {
    if (this.#reader === reader) this.#reader = this.#answer = this.#hand = null;
    this.#wake?.();
    return { value: undefined, done: true };
  }

  /** The feed was closed: nobody wants any of it. */
  close() {
    this.#isClosed = true;
    this.#waiting = [];
    this.#timers.splice(0).forEach(clearTimeout);
    this.#wake?.();
  }
}
