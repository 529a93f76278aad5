// Takes the pictures of the live page in docs/img: the real binary, a real Chromium, a made-up Bugzilla.
//
//     cargo build --bin bugfeed && node docs/screenshots.mjs [FOLDER]
//
// Needs Debian's chromium and chromium-driver. BUGFEED_BIN names another binary than target/debug/bugfeed.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? join(here, "../target");
const bugfeed = resolve(process.env.BUGFEED_BIN ?? join(target, "debug/bugfeed"));
const folder = resolve(process.argv[2] ?? join(here, "img"));

const SUMMARIES = {
  1234: ["Crash when a bookmark is dragged onto its own folder", "RESOLVED", "FIXED"],
  5678: ["Search field loses the first letter typed after a restart", "ASSIGNED", ""],
  4711: ["Printing a page with very wide tables cuts the last column", "NEW", ""],
};
const HISTORY = {
  1234: [["status", "ASSIGNED", "RESOLVED"], ["resolution", "", "FIXED"]],
  5678: [["assigned_to", "nobody@example.org", "developer@example.org"], ["status", "NEW", "ASSIGNED"]],
};

/** As much of Bugzilla's REST API as the page asks for: whenever a bug changed, this is what changed. */
function tracker(request, response) {
  const url = new URL(request.url, "http://tracker");
  const id = Number(/bug\/(\d+)\//.exec(url.pathname)?.[1]);
  const since = new Date(Date.parse(url.searchParams.get("new_since") ?? "2000-01-01") + 1000).toISOString();
  let answer;
  if (url.pathname === "/rest/bug") {
    const ids = url.searchParams.get("id").split(",");
    const bug = (number) => {
      const [summary, status, resolution] = SUMMARIES[number];
      return { id: Number(number), summary, status, resolution };
    };
    answer = { bugs: ids.filter((number) => SUMMARIES[number]).map(bug) };
  } else if (url.pathname.endsWith("/history")) {
    const changes = (HISTORY[id] ?? []).map(([field_name, removed, added]) => ({ field_name, removed, added }));
    answer = { bugs: [{ id, history: changes.length > 0 ? [{ when: since, who: "developer@example.org", changes }] : [] }] };
  } else {
    const comment = { creator: "reporter@example.org", time: since, text: "I see this too, only with paper in portrait format." };
    answer = { bugs: { [id]: { comments: [comment] } } };
  }
  response.writeHead(200, { "Content-Type": "application/json", "Access-Control-Allow-Origin": "*" });
  response.end(JSON.stringify(answer));
}

const freePort = async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
};

/** Waits until `look` returns something, for at most 20 s. */
async function until(look, what) {
  for (let tries = 0; tries < 400; tries += 1) {
    const found = await Promise.resolve(look()).catch(() => null);
    if (found) return found;
    await pause(50);
  }
  throw new Error(`${what} did not come`);
}

async function post(url, body) {
  const response = await fetch(url, { method: "POST", body: JSON.stringify(body) });
  const { value } = await response.json();
  if (!response.ok) throw new Error(`${url}: ${value.message}`);
  return value;
}

const scratch = mkdtempSync(join(tmpdir(), "bugfeed-pictures-"));
const started = [];
function start(program, args, env) {
  // The page tells how its program was called; no path of this machine belongs into a picture.
  const argv0 = program === bugfeed ? "target/release/bugfeed" : program;
  const all = { ...process.env, HOME: scratch, ...env };
  const child = spawn(program, args, { argv0, cwd: scratch, env: all, stdio: "ignore", detached: true });
  started.push(child);
}

const bugzilla = createServer(tracker).listen(0, "127.0.0.1");
try {
  mkdirSync(folder, { recursive: true });
  await once(bugzilla, "listening");
  const template = `http://127.0.0.1:${bugzilla.address().port}/show_bug.cgi?id={bug}`;
  const [clients, admin, driver] = [await freePort(), await freePort(), await freePort()];
  start(bugfeed, [], { BUGFEED_LISTEN: `127.0.0.1:${clients}`, BUGFEED_ADMIN_LISTEN: `127.0.0.1:${admin}` });
  start("chromedriver", [`--port=${driver}`]);
  await until(async () => (await fetch(`http://127.0.0.1:${admin}/readyz`)).ok, "the gateway");
  await until(async () => (await fetch(`http://127.0.0.1:${driver}/status`)).ok, "chromedriver");
  const touch = (...args) => spawnSync(bugfeed, ["touch", ...args.map(String)], { cwd: scratch });
  const page = `http://127.0.0.1:${clients}/`;

  const args = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", `--user-data-dir=${scratch}/profile`];
  const wanted = { browserName: "chrome", "goog:chromeOptions": { args } };
  const { sessionId } = await post(`http://127.0.0.1:${driver}/session`, { capabilities: { alwaysMatch: wanted } });
  const session = `http://127.0.0.1:${driver}/session/${sessionId}`;
  const js = (script) => post(`${session}/execute/sync`, { script, args: [] });
  const devtools = (cmd, params) => post(`${session}/goog/cdp/execute`, { cmd, params });
  const sees = (expression) => until(() => js(`return ${expression}`), expression);
  const click = (id) => js(`document.getElementById("${id}").click()`);
  const look = async (width, height, scheme) => {
    const mobile = width < 600;
    await devtools("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: mobile ? 1.5 : 1, mobile });
    await devtools("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  };
  const shoot = async (name) => {
    await js("window.scrollTo(0, 0); document.activeElement.blur()");
    // The colour of what has just arrived fades.
    await until(() => js("return document.getAnimations().every((it) => it.playState === 'finished')"), "calm");
    const { data } = await devtools("Page.captureScreenshot", { format: "png" });
    writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
    console.log(join(folder, `${name}.png`));
  };

  await look(1200, 760, "light");
  await post(`${session}/url`, { url: page });
  await sees("!document.getElementById('welcome').hidden");
  await shoot("welcome");

  // A morning's work, some of it made while the page was closed.
  await post(`${session}/url`, { url: `${page}?tracker=${encodeURIComponent(template)}#1234,5678,4711` });
  await sees("!document.getElementById('tracker-question').hidden");
  await click("tracker-accept");
  await sees("document.querySelectorAll('#subscriptions li:not([data-pending])').length === 3");
  touch(5678);
  await sees("document.querySelectorAll('#updates > li').length === 1");
  await post(`${session}/url`, { url: "data:,away" });
  touch(4711);
  await pause(1_100); // Another second, another change.
  touch(5678);
  await post(`${session}/url`, { url: `${page}#1234,5678,4711` });
  await sees("document.querySelectorAll('#updates > li').length === 3");
  await sees("document.querySelectorAll('#subscriptions li:not([data-pending])').length === 3");
  await click("demo-touch");
  await sees("document.querySelectorAll('#updates .summary').length === 4");
  await sees("document.querySelectorAll('#updates .changed').length >= 6");
  await shoot("live");
  await look(1200, 760, "dark");
  await shoot("live-dark");
  await look(390, 844, "light");
  await shoot("phone");
  await look(390, 844, "dark");
  await shoot("phone-dark");

  await look(1200, 760, "light");
  await click("tab-console");
  for (const name of ["hello", "resume", "bad bug"]) {
    await js(`document.querySelector('[data-sample="${name}"]').click()`);
    await click("console-send");
    await pause(300);
  }
  await click("console-binary");
  await sees("document.querySelector('#console-log [data-kind=close]')");
  await shoot("console");
  await fetch(session, { method: "DELETE" });
} finally {
  for (const child of started) {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
  }
  bugzilla.close();
  bugzilla.closeAllConnections();
  await pause(300);
  rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
}
