// A clock that moves when it is told to, and a gateway to connect to.
import { execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const round = () => new Promise((resolve) => setImmediate(resolve));
/** Resolves when everything that was about to happen has happened: a stream takes some rounds. */
export const settled = async (rounds = 1) => {
  for (; rounds > 0; rounds--) await round();
};

export class Clock {
  #now = Date.parse("2026-01-01T00:00:00Z");
  #timers = new Map();
  #count = 0;
  /** How many rounds what a timer begins may take. */
  rounds = 1;
  #real = { setTimeout, clearTimeout };
  #random = Math.random;
  #date = Date.now;

  /** Takes the place of the real clock and of chance, until `remove`. */
  constructor(random = 0.5) {
    globalThis.setTimeout = (then, ms) => {
      this.#timers.set(++this.#count, { then, at: this.#now + ms });
      return this.#count;
    };
    globalThis.clearTimeout = (timer) => this.#timers.delete(timer);
    Math.random = () => random;
    Date.now = () => this.#now;
  }

  remove() {
    Object.assign(globalThis, this.#real);
    Math.random = this.#random;
    Date.now = this.#date;
  }

  async advance(ms) {
    const until = this.#now + ms;
    await settled(this.rounds);
    for (;;) {
      const [due] = [...this.#timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at);
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#now = due[1].at;
      due[1].then();
      await settled(this.rounds);
    }
    this.#now = until;
  }
}

/** The gateway's binary: $BUGFEED_TEST_BIN, or what cargo built. Undefined if there is none. */
export const binary =
  process.env.BUGFEED_TEST_BIN ||
  ["release", "debug"]
    .map((profile) => fileURLToPath(new URL(`../../../target/${profile}/bugfeed`, import.meta.url)))
    .find(existsSync);

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

/** The real gateway with a change table of its own, on free ports. */
export class Gateway {
  dir = mkdtempSync(join(tmpdir(), "bugfeed-js-"));
  /** More options of `bugfeed serve`. */
  options = [];

  /** @param {(gateway: Gateway) => string[]} [options] more options */
  static async start(options = () => []) {
    const gateway = new Gateway();
    gateway.options = options(gateway);
    [gateway.port, gateway.admin] = [await freePort(), await freePort()];
    await gateway.start();
    return gateway;
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/`;
  }

  async start() {
    const listen = ["--listen", `127.0.0.1:${this.port}`, "--admin-listen", `127.0.0.1:${this.admin}`];
    this.process = spawn(binary, ["serve", "--data-dir", this.dir, ...listen, ...this.options], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    this.process.stderr.on("data", (data) => (log += data));
    for (let tries = 0; tries < 600; tries++) {
      if (this.process.exitCode !== null) throw new Error(`the gateway ended:\n${log}`);
      const ready = await fetch(`http://127.0.0.1:${this.admin}/readyz`).catch(() => ({ ok: false }));
      if (ready.ok) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`the gateway does not get ready:\n${log}`);
  }

  /** Commits a change of each bug, as the tracker would. */
  touch(...bugs) {
    execFileSync(binary, ["touch", ...bugs, "--source", `sqlite://${this.dir}/bugfeed.db`], { stdio: "ignore" });
  }

  /** The same while something else goes on; resolves when it is done. */
  async touchMeanwhile(...bugs) {
    await promisify(execFile)(binary, ["touch", ...bugs, "--source", `sqlite://${this.dir}/bugfeed.db`]);
  }

  /** Makes a token, and its entry for the file of `--tokens`. */
  static token(name, ...options) {
    const { stdout, stderr, status } = spawnSync(binary, ["token", "new", "--name", name, ...options], { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    return { token: stdout.trim(), entry: stderr };
  }

  async stop(signal = "SIGTERM") {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill(signal);
    await ended;
  }

  async end() {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.stop("SIGKILL");
    rmSync(this.dir, { recursive: true });
  }
}
