// Pages of one browser, as far as they share something: locks and channels of the test's own.

/** Web Locks, exclusive ones. Whoever holds one is ended by `steal`, as browsers do. */
export class Locks {
  #held = new Map();
  #waiting = [];

  request(name, { signal, steal }, then) {
    return new Promise((resolve, reject) => {
      const entry = { name, then, resolve, reject };
      const aborted = () => new DOMException("aborted", "AbortError");
      if (signal?.aborted) return reject(aborted());
      signal?.addEventListener("abort", () => {
        const at = this.#waiting.indexOf(entry);
        if (at >= 0) this.#waiting.splice(at, 1);
        if (at >= 0) reject(aborted());
      });
      if (steal) {
        this.#held.get(name)?.reject(aborted());
        this.#held.delete(name);
        this.#waiting.unshift(entry);
      } else this.#waiting.push(entry);
      this.#grant(name);
    });
  }

  #grant(name) {
    if (this.#held.has(name)) return;
    const at = this.#waiting.findIndex((entry) => entry.name === name);
    if (at < 0) return;
    const [entry] = this.#waiting.splice(at, 1);
    this.#held.set(name, entry);
    queueMicrotask(async () => {
      const result = await entry.then({ name });
      entry.resolve(result);
      if (this.#held.get(name) !== entry) return;
      this.#held.delete(name);
      this.#grant(name);
    });
  }
}

const channels = new Set();
/** Those that are frozen: what is said reaches them when they are not any more. */
const frozen = new Map();

export class Channel {
  constructor(name) {
    this.name = name;
    channels.add(this);
  }

  postMessage(message) {
    if (!channels.has(this)) throw new DOMException("closed", "InvalidStateError");
    if (frozen.has(this)) return;
    const data = structuredClone(message);
    for (const other of channels)
      if (other !== this && other.name === this.name) {
        const deliver = () => channels.has(other) && other.onmessage({ data });
        frozen.has(other) ? frozen.get(other).push(deliver) : queueMicrotask(deliver);
      }
  }

  close() {
    channels.delete(this);
  }
}

/** Neither hears nor is heard, from now on until `thaw`. */
export const freeze = (at) => frozen.set([...channels][at], []);
export const thaw = () => {
  for (const [channel, missed] of frozen) {
    frozen.delete(channel);
    for (const deliver of missed) deliver();
  }
};
export const openChannels = () => channels.size;
