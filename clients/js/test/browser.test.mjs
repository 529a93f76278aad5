// In headless Chromium, against the real gateway. The page reports what it hears to this test.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Proxy } from "./proxy.mjs";
import { Gateway, binary } from "./support.mjs";

const browser = ["chromium", "chromium-browser", "google-chrome"].find((name) => !spawnSync(name, ["--version"]).error);
const missing =
  (!binary && "no gateway: set BUGFEED_BIN, or run cargo build") || (!browser && "Chromium is not installed");
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

const page = (url) => `<!doctype html><script type="module">
  import { Bugfeed } from "/bugfeed.js";
  const tell = async (...heard) => {
    const answer = await fetch("/heard", { method: "POST", body: JSON.stringify(heard) });
    if ((await answer.text()) === "reload") location.reload();
  };
  const feed = new Bugfeed("${url}", { bugs: [1, 2], storage: localStorage, key: "test" });
  feed.addEventListener("change", ({ detail }) => tell("change", detail.bug));
  feed.addEventListener("gap", ({ detail }) => tell("gap", ...detail.bugs));
  feed.addEventListener("subscribed", ({ detail }) => tell("subscribed", detail.replay, feed.transport));
  feed.addEventListener("state", ({ detail }) => detail.state === "waiting" && tell("waiting"));
</script>`;

/** Serves the page and the module, and collects what the page says. */
const serve = async (html) => {
  const site = { reload: false, loading: () => {}, close: () => server.close() };
  const heard = [];
  const waiting = [];
  const module = (name) => readFileSync(new URL(`..${name}`, import.meta.url));
  const server = createServer(async (request, response) => {
    if (request.url === "/heard") {
      let body = "";
      for await (const piece of request) body += piece;
      const told = JSON.parse(body);
      waiting.length ? waiting.shift()(told) : heard.push(told);
      response.end(site.reload ? "reload" : "");
    } else if (request.url.endsWith(".js")) {
      response.setHeader("content-type", "text/javascript").end(module(request.url));
    } else {
      site.loading();
      response.setHeader("content-type", "text/html").end(html);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  site.next = () => (heard.length ? heard.shift() : new Promise((resolve) => waiting.push(resolve)));
  site.url = `http://127.0.0.1:${server.address().port}/`;
  return site;
};

const open = (url, profile) => {
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
  const child = spawn(browser, [...flags, `--user-data-dir=${profile}`, url], { stdio: "ignore", detached: true });
  return async () => {
    const ended = once(child, "exit");
    // With all the processes that it started.
    process.kill(-child.pid, "SIGTERM");
    await ended;
  };
};

test(
  "a page resumes after kill -9 of the gateway, and after a reload",
  { skip: missing, timeout: 120_000 },
  async () => {
    const gateway = await Gateway.start();
    const site = await serve(page(gateway.url));
    const profile = mkdtempSync(join(tmpdir(), "bugfeed-js-"));
    const close = open(site.url, profile);
    try {
      assert.deepEqual(await site.next(), ["subscribed", null, "websocket"]);
      gateway.touch(1, 9);
      assert.deepEqual(await site.next(), ["change", 1]);
      await gateway.stop("SIGKILL");
      assert.deepEqual(await site.next(), ["waiting"]);
      gateway.touch(2);
      await gateway.start();
      let told = await site.next();
      while (told[0] === "waiting") told = await site.next();
      assert.deepEqual(told, ["subscribed", "complete", "websocket"]);
      site.reload = true;
      site.loading = () => {
        site.reload = false;
        gateway.touch(1);
      };
      assert.deepEqual(await site.next(), ["change", 2]);
      assert.deepEqual(await site.next(), ["subscribed", "complete", "websocket"]);
      assert.deepEqual(await site.next(), ["change", 1]);
    } finally {
      await close();
      site.close();
      await gateway.end();
      rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    }
  },
);

for (const [keep, transport] of [
  [false, "sse"],
  [true, "long-poll"],
])
  test(
    `a page behind a proxy without WebSocket, by ${transport}: resumes after kill -9 of the gateway`,
    { skip: missing, timeout: 120_000 },
    async () => {
      const gateway = await Gateway.start();
      gateway.touch(9); // So that it knows a number.
      const proxy = await Proxy.start(gateway.port, { refuse: 502, keep });
      const site = await serve(page(proxy.url));
      const profile = mkdtempSync(join(tmpdir(), "bugfeed-js-"));
      const close = open(site.url, profile);
      const next = async () => {
        let told = await site.next();
        while (told[0] === "waiting") told = await site.next();
        return told;
      };
      try {
        assert.deepEqual(await next(), ["subscribed", null, transport]);
        gateway.touch(1);
        assert.deepEqual(await next(), ["change", 1]);
        await gateway.stop("SIGKILL");
        assert.deepEqual(await site.next(), ["waiting"]);
        gateway.touch(2);
        await gateway.start();
        assert.deepEqual(await next(), ["subscribed", "complete", transport]);
        assert.deepEqual(await next(), ["change", 2]);
        gateway.touch(1);
        assert.deepEqual(await next(), ["change", 1]);
      } finally {
        await close();
        site.close();
        proxy.close();
        await gateway.end();
        rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
      }
    },
  );
