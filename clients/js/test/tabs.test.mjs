// Seven tabs of one browser on one tracker, over HTTP/1.1 and behind a proxy that knows no WebSocket: they share one
// connection, so the tracker's own pages still load. The tracker and the feed have one host, as browsers count connections.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Gateway, binary } from "./support.mjs";

const browser = ["chromium", "chromium-browser", "google-chrome"].find((name) => !spawnSync(name, ["--version"]).error);
const missing =
  (!binary && "no gateway: set BUGFEED_BIN, or run cargo build") || (!browser && "Chromium is not installed");
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

const TABS = [1, 2, 3, 4, 5, 6, 7];
const ALL = 100;

/** A page of the tracker: says what it hears of its own bug and of one that all of them watch. */
const page = (tab) => `<!doctype html><title>${tab}</title><script type="module">
  import { Bugfeed } from "/bugfeed/client.js";
  const tell = (...heard) => fetch("/heard", { method: "POST", body: JSON.stringify([${tab}, ...heard]) });
  const feed = new Bugfeed("/bugfeed/", { bugs: [${tab}, ${ALL}], storage: localStorage, key: "tab ${tab}" });
  feed.addEventListener("change", ({ detail }) => tell(detail.bug));
  feed.addEventListener("gap", () => tell("gap"));
  feed.addEventListener("error", ({ detail }) => tell("error", detail.message));
  feed.addEventListener("subscribed", ({ detail }) => tell("subscribed", detail.replay, feed.transport));
</script>`;

/** An open bug in Bugzilla, with the extension of ../../../examples: says what the banner says. */
const bugPage = (bug) => `<!doctype html><title>${bug}</title><body><form name="changeform">
  <input type="hidden" name="delta_ts" value="2014-04-03 21:13:45"><input type="hidden" name="id" value="${bug}"></form>
  <script src="/extension.js" defer data-gateway="/bugfeed/" data-timezone="UTC"></script>
  <script type="module">
    const tell = (...heard) => fetch("/heard", { method: "POST", body: JSON.stringify([${bug}, ...heard]) });
    const banner = document.getElementById("bugfeed");
    new MutationObserver(() => tell(banner.querySelector("span").textContent)).observe(banner, { childList: true });
    tell("loaded");
  </script>`;

const modules = { client: "bugfeed", "client-queue": "client-queue", "client-fallback": "client-fallback", "client-shared": "client-shared" };

/** The tracker's host: its pages, and below /bugfeed/ the gateway. */
class Tracker {
  heard = [];
  #waiting = [];
  /** Requests that are open just now. */
  held = new Map();

  static async start(gateway) {
    const tracker = new Tracker();
    tracker.server = createServer((incoming, answer) => tracker.#serve(gateway, incoming, answer));
    tracker.server.on("upgrade", (_, socket) => socket.end("HTTP/1.1 502 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    tracker.server.listen(0, "127.0.0.1");
    await once(tracker.server, "listening");
    tracker.url = `http://127.0.0.1:${tracker.server.address().port}/`;
    return tracker;
  }

  async #serve(gateway, incoming, answer) {
    const [, name] = /^\/bugfeed\/([a-z-]+)\.js$/.exec(incoming.url) ?? [];
    if (incoming.url === "/heard") {
      let body = "";
      for await (const piece of incoming) body += piece;
      const told = JSON.parse(body);
      this.#waiting.length ? this.#waiting.shift()(told) : this.heard.push(told);
      answer.end();
    } else if (name) {
      const source = readFileSync(new URL(`../${modules[name]}.js`, import.meta.url));
      answer.setHeader("content-type", "text/javascript").end(source);
    } else if (incoming.url === "/extension.js") {
      const source = readFileSync(new URL("../../../examples/userscript/bugfeed.user.js", import.meta.url));
      answer.setHeader("content-type", "text/javascript").end(source);
    } else if (incoming.url.startsWith("/bugfeed/")) this.#forward(gateway, incoming, answer);
    else if (incoming.url.startsWith("/bug/"))
      answer.setHeader("content-type", "text/html").end(bugPage(incoming.url.slice("/bug/".length)));
    else answer.setHeader("content-type", "text/html").end(page(incoming.url.slice(1)));
  }

  #forward(gateway, incoming, answer) {
    this.held.set(answer, incoming.url);
    answer.on("close", () => this.held.delete(answer));
    const { host, connection, ...headers } = incoming.headers;
    const path = incoming.url.replace("/bugfeed", "");
    const outgoing = request({ host: "127.0.0.1", port: gateway.port, method: incoming.method, path, headers }, (response) => {
      answer.writeHead(response.statusCode, response.headers);
      answer.flushHeaders();
      response.pipe(answer);
      response.on("error", () => answer.destroy());
    });
    outgoing.on("error", () => answer.destroy());
    answer.on("close", () => outgoing.destroy());
    incoming.pipe(outgoing);
  }

  /** What is said next; of a page that waits, connecting anew is not worth a word. */
  next() {
    return this.heard.length ? this.heard.shift() : new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** So many words, in any order. */
  async words(count) {
    const all = [];
    while (all.length < count) all.push(await this.next());
    return all.sort(([a], [b]) => a - b);
  }

  get streams() {
    return [...this.held.values()].filter((url) => url.includes("/sse?"));
  }

  close() {
    this.server.close();
    this.server.closeAllConnections();
  }
}

/** A browser whose tabs the test opens and closes. */
class Tabs {
  #profile = mkdtempSync(join(tmpdir(), "bugfeed-js-"));

  static async start() {
    const tabs = new Tabs();
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
    const more = [`--user-data-dir=${tabs.#profile}`, "--remote-debugging-port=0", "about:blank"];
    tabs.child = spawn(browser, [...flags, ...more], { stdio: "ignore", detached: true });
    const file = join(tabs.#profile, "DevToolsActivePort");
    await eventually(() => existsSync(file) && readFileSync(file, "utf8").includes("\n"));
    tabs.port = readFileSync(file, "utf8").split("\n")[0];
    return tabs;
  }

  async #ask(path, method = "GET") {
    return fetch(`http://127.0.0.1:${this.port}/json/${path}`, { method });
  }

  async open(url) {
    return (await (await this.#ask(`new?${url}`, "PUT")).json()).id;
  }

  async close(id) {
    await this.#ask(`close/${id}`);
  }

  async end() {
    const ended = once(this.child, "exit");
    process.kill(-this.child.pid, "SIGTERM");
    await ended;
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}

const eventually = async (holds) => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20));
};

test("seven tabs share one connection, whoever of them is closed", { skip: missing, timeout: 180_000 }, async () => {
  const gateway = await Gateway.start();
  gateway.touch(9); // So that it knows a number.
  const tracker = await Tracker.start(gateway);
  const tabs = await Tabs.start();
  const opened = [];
  try {
    for (const tab of TABS) {
      opened.push(await tabs.open(`${tracker.url}${tab}`));
      assert.deepEqual(await tracker.next(), [tab, "subscribed", null, "sse"]);
    }
    await eventually(() => tracker.streams.length === 1 && tracker.streams[0].includes("7"));
    gateway.touch(3);
    assert.deepEqual(await tracker.next(), [3, 3]);
    gateway.touch(ALL);
    assert.deepEqual(await tracker.words(7), TABS.map((tab) => [tab, ALL]));
    assert.equal(tracker.streams.length, 1);
    assert.ok(tracker.held.size <= 2, "somebody holds a connection");

    // The one that was first leads.
    await tabs.close(opened[0]);
    gateway.touch(ALL, 5);
    const words = await tracker.words(7);
    assert.deepEqual(words.filter(([, bug]) => bug === ALL), TABS.slice(1).map((tab) => [tab, ALL]));
    assert.deepEqual(words.filter(([, bug]) => bug === 5), [[5, 5]]);
    await eventually(() => tracker.streams.length === 1);

    // While the gateway is away.
    await gateway.stop("SIGKILL");
    gateway.touch(ALL);
    await gateway.start();
    const back = await tracker.words(12);
    assert.deepEqual(back.filter(([, word]) => word === ALL), TABS.slice(1).map((tab) => [tab, ALL]));
    assert.deepEqual(back.filter(([, word]) => word === "subscribed").map(([, , replay]) => replay), Array(6).fill("complete"));
    await eventually(() => tracker.streams.length === 1);
    assert.deepEqual(tracker.heard, []);
  } finally {
    await tabs.end();
    tracker.close();
    await gateway.end();
  }
});

test("seven open bugs of a Bugzilla with the extension share one, too", { skip: missing, timeout: 180_000 }, async () => {
  const gateway = await Gateway.start();
  gateway.touch(9); // So that it knows a number.
  const tracker = await Tracker.start(gateway);
  const tabs = await Tabs.start();
  try {
    for (const bug of TABS) {
      await tabs.open(`${tracker.url}bug/${bug}`);
      assert.deepEqual(await tracker.next(), [bug, "loaded"]);
    }
    await eventually(() => tracker.streams.length === 1 && TABS.every((bug) => tracker.streams[0].includes(bug)));
    gateway.touch(3, 7);
    const changed = "This bug has changed since this page was loaded.";
    assert.deepEqual(await tracker.words(2), [[3, changed], [7, changed]]);
    assert.deepEqual(tracker.heard, []);
  } finally {
    await tabs.end();
    tracker.close();
    await gateway.end();
  }
});
