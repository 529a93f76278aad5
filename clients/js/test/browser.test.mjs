// In headless Chromium, and in Firefox where it is installed, against the real gateway. The page reports what it hears to
// this test.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Proxy } from "./proxy.mjs";
import { Gateway, binary } from "./support.mjs";

const installed = (...names) => names.find((name) => !spawnSync(name, ["--version"]).error);
const chromium = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
const browsers = {
  Chromium: {
    program: installed("chromium", "chromium-browser", "google-chrome"),
    flags: (profile, url) => [...chromium, `--user-data-dir=${profile}`, url],
  },
  Firefox: {
    program: installed("firefox-esr", "firefox"),
    flags: (profile, url) => ["--headless", "--no-remote", "--profile", profile, url],
  },
};
const noGateway = !binary && "no gateway: set BUGFEED_TEST_BIN, or run cargo build";
const missing = noGateway || (!browsers.Chromium.program && "Chromium is not installed");
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

const page = (url) => `<!doctype html><script type="module">
  import { Bugfeed } from "/bugfeed.js";
  // One after the other: two requests at a time may arrive in the other order.
  let told = Promise.resolve();
  const tell = (...heard) => {
    told = told.then(async () => {
      const answer = await fetch("/heard", { method: "POST", body: JSON.stringify(heard) });
      if ((await answer.text()) === "reload") location.reload();
    });
  };
  const feed = new Bugfeed("${url}", { bugs: [1, 2], storage: localStorage, key: "test" });
  feed.addEventListener("change", ({ detail }) => tell("change", detail.bug));
  feed.addEventListener("gap", ({ detail }) => tell("gap", ...detail.bugs));
  feed.addEventListener("subscribed", ({ detail }) => tell("subscribed", detail.replay, feed.transport));
  feed.addEventListener("state", ({ detail }) => detail.state === "waiting" && tell("waiting", detail.reason));
  feed.addEventListener("error", ({ detail }) => tell("error", detail.final, detail.status, detail.message));
</script>`;

/** Serves the page and the module, and collects what the page says. */
const serve = async (html) => {
  const site = { reload: false, loading: () => {}, close: () => server.close(), away: new Set() };
  const heard = [];
  const waiting = [];
  const module = (name) => readFileSync(new URL(`..${name}`, import.meta.url));
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://site.test");
    if (site.away.delete(pathname)) {
      response.writeHead(404).end();
    } else if (pathname === "/heard") {
      let body = "";
      for await (const piece of request) body += piece;
      const told = JSON.parse(body);
      waiting.length ? waiting.shift()(told) : heard.push(told);
      response.end(site.reload ? "reload" : "");
    } else if (pathname.endsWith(".js")) {
      response.setHeader("content-type", "text/javascript").end(module(pathname));
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

const open = ({ program, flags }, url, profile) => {
  // Firefox asks on the first start, and looks for updates.
  const quiet = ["browser.aboutwelcome.enabled", "datareporting.policy.dataSubmissionEnabled", "app.update.auto"];
  writeFileSync(join(profile, "user.js"), quiet.map((name) => `user_pref("${name}", false);\n`).join(""));
  const child = spawn(program, flags(profile, url), { stdio: "ignore", detached: true });
  return async () => {
    const ended = once(child, "exit");
    // With all the processes that it started.
    process.kill(-child.pid, "SIGTERM");
    await ended;
  };
};

/** Plays in a page of that browser which watches the feed at `url`. */
const play = async (browser, url, scenario) => {
  const site = await serve(page(url));
  const profile = mkdtempSync(join(tmpdir(), "bugfeed-js-"));
  const close = open(browser, site.url, profile);
  const next = async () => {
    let told = await site.next();
    while (told[0] === "waiting") told = await site.next();
    return told;
  };
  try {
    await scenario(site, next);
  } finally {
    await close();
    site.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
};

for (const [name, browser] of Object.entries(browsers)) {
  const options = { skip: noGateway || (!browser.program && `${name} is not installed`), timeout: 120_000 };

  test(`${name}: a page resumes after kill -9 of the gateway, and after a reload`, options, async () => {
    const gateway = await Gateway.start();
    try {
      await play(browser, gateway.url, async (site, next) => {
        assert.deepEqual(await site.next(), ["subscribed", null, "websocket"]);
        gateway.touch(1, 9);
        assert.deepEqual(await site.next(), ["change", 1]);
        await gateway.stop("SIGKILL");
        assert.equal((await site.next())[0], "waiting");
        gateway.touch(2);
        await gateway.start();
        assert.deepEqual(await next(), ["subscribed", "complete", "websocket"]);
        site.reload = true;
        site.loading = () => {
          site.reload = false;
          gateway.touch(1);
        };
        assert.deepEqual(await next(), ["change", 2]);
        // The page that is left may still see its connection end.
        assert.deepEqual(await next(), ["subscribed", "complete", "websocket"]);
        assert.deepEqual(await next(), ["change", 1]);
      });
    } finally {
      await gateway.end();
    }
  });

  test(`${name}: a port where nobody listens: told at once, each time`, options, async () => {
    const gateway = await Gateway.start();
    await gateway.stop();
    try {
      await play(browser, gateway.url, async (site) => {
        for (let attempt = 0; attempt < 2; attempt++) {
          const [what, reason] = await site.next();
          assert.equal(what, "waiting");
          assert.notEqual(reason, "silence", "the attempt took all of its time");
        }
      });
    } finally {
      await gateway.end();
    }
  });

  test(`${name}: a wrong feed: the gateway's own word, and the end`, options, async () => {
    const gateway = await Gateway.start();
    try {
      await play(browser, `${gateway.url}nonsense/`, async (site, next) => {
        const [what, final, status, message] = await next();
        assert.deepEqual([what, final, status], ["error", true, 404]);
        assert.match(message, /nonsense\/ refuses \(404\): there is no feed here; feeds: \/$/i);
      });
    } finally {
      await gateway.end();
    }
  });

  for (const [keep, transport] of [
    [false, "sse"],
    [true, "long-poll"],
  ])
    test(`${name}: behind a proxy without WebSocket, by ${transport}: resumes after kill -9`, options, async () => {
      const gateway = await Gateway.start();
      gateway.touch(9); // So that it knows a number.
      const proxy = await Proxy.start(gateway.port, { refuse: 502, keep });
      try {
        await play(browser, proxy.url, async (site, next) => {
          // Firefox never asks again for a module that failed once.
          site.away.add("/client-fallback.js");
          // That a proxy keeps a stream shows after a while.
          let told = await next();
          if (keep && told[2] === "sse") told = await next();
          assert.deepEqual([told[0], told[2]], ["subscribed", transport]);
          gateway.touch(1);
          assert.deepEqual(await next(), ["change", 1]);
          await gateway.stop("SIGKILL");
          assert.equal((await site.next())[0], "waiting");
          gateway.touch(2);
          await gateway.start();
          assert.deepEqual(await next(), ["subscribed", "complete", transport]);
          assert.deepEqual(await next(), ["change", 2]);
          gateway.touch(1);
          assert.deepEqual(await next(), ["change", 1]);
        });
      } finally {
        proxy.close();
        await gateway.end();
      }
    });
}
