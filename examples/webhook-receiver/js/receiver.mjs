// Receives bugfeed's webhooks: a bot to start from. It answers once it has a change on the disk, and does the work
// after that; so it may be killed at any moment, and misses nothing.
//     npm install
//     BUGFEED_SECRET=whsec_… node receiver.mjs
// In the environment: BUGFEED_SECRET (while it is being replaced: the new one and the old one, with a blank between
// them), LISTEN (127.0.0.1:9000) and STATE (receiver.json). With HOOKS (http://127.0.0.1:8844/) and ENDPOINT (ep_…) it
// asks at the start for what it missed, and says that it is ready.
import { randomUUID } from "node:crypto";
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Webhook } from "standardwebhooks";

const { BUGFEED_SECRET = "", LISTEN = "127.0.0.1:9000", STATE = "receiver.json", HOOKS, ENDPOINT } = process.env;
const LONGEST_BODY = 64 * 1024; // bugfeed sends at most 20 kB.
const REMEMBERED = 2000; // So many of the last changes are known again; a request has at most some 200.
const AGAIN_MS = 5000; // Work that failed is done again after this time.

const secrets = BUGFEED_SECRET.split(/\s+/).filter(Boolean);
if (!secrets.length || !secrets.every((secret) => /^whsec_([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2,3}={1,2})?$/.test(secret))) {
  console.error("set BUGFEED_SECRET to the endpoint's secret: whsec_ and Base64, as `bugfeed endpoints create` printed it");
  process.exit(2);
}
const webhooks = secrets.map((secret) => new Webhook(secret));

/** The work: replace it by yours. It is called at least once for each change, and again where it throws. */
async function look({ feed, bug, when }) {
  if (bug === undefined) console.log(`changes of ${feed} may be missing: look at all its bugs`);
  else console.log(`look at bug ${bug} of ${feed}, changed at ${when}`);
}

/** What is stored: how far each feed is, the last changes that were taken, the work that is left. Never changed in place. */
let state = existsSync(STATE) ? JSON.parse(readFileSync(STATE, "utf8")) : { cursors: {}, taken: [], todo: [] };
let wake = () => {};

/** Replaces the state on the disk in one step, then in memory. */
function store(next) {
  const file = openSync(`${STATE}.new`, "w", 0o600);
  try {
    writeFileSync(file, JSON.stringify(next));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(`${STATE}.new`, STATE);
  const folder = openSync(dirname(STATE), "r");
  fsyncSync(folder);
  closeSync(folder);
  state = next;
  wake();
}

/** Takes what a request says. When this returns, it is on the disk. */
function take({ command, feed, cursor, changes, ...change }) {
  let { taken, todo } = state;
  const add = (item) => (todo = [...todo.filter((known) => known.feed !== feed || known.bug !== item.bug), item]);
  if (command === "update") changes = [{ ...change, cursor }];
  else if (command === "gap") add({ feed });
  else if (command !== "updates") return; // A test, or something that is newer than this program.
  for (const { bug, when, cursor: its } of changes ?? []) {
    // A request may come twice, and a change in two requests. Changes that came late share a cursor.
    const name = `${feed} ${bug} ${when} ${its}`;
    if (its && taken.includes(name)) continue;
    if (its) taken = [...taken, name].slice(-REMEMBERED);
    add({ feed, bug, when });
  }
  store({ cursors: { ...state.cursors, [feed]: cursor }, taken, todo });
}

/** Does the work, one thing after the other. */
async function work() {
  for (;;) {
    const [item] = state.todo;
    if (!item) {
      await new Promise((resolve) => (wake = resolve));
      continue;
    }
    try {
      await look(item);
      // A newer change of the bug, which came meanwhile, is another item, and stays.
      store({ ...state, todo: state.todo.filter((other) => other !== item) });
    } catch (error) {
      console.error(`${error.message}; again in ${AGAIN_MS / 1000} s`);
      await sleep(AGAIN_MS);
    }
  }
}

/** What a request says, if its signature fits one of the secrets and it is not older than five minutes. */
function verified(body, headers) {
  for (const webhook of webhooks) {
    try {
      return webhook.verify(body, headers);
    } catch {
      // The other secret may fit.
    }
  }
  return undefined;
}

async function answer(request, response) {
  const say = (status, text = "") => response.writeHead(status, { "content-type": "text/plain" }).end(text);
  if (request.method !== "POST") return say(405, "only POST");
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length <= LONGEST_BODY) parts.push(part);
  }
  if (length > LONGEST_BODY) return say(413, "too long");
  const message = verified(Buffer.concat(parts).toString(), request.headers);
  if (!message) return say(401, "the signature does not fit, or is too old");
  console.log(`received ${message.command}`);
  try {
    take(message);
  } catch (error) {
    console.error(`cannot store: ${error.message}`);
    return say(503, "cannot be stored just now"); // It comes again.
  }
  return say(204);
}

/** Asks bugfeed, signed by the endpoint's secret. */
async function call(method, path) {
  const [id, now] = [`call_${randomUUID()}`, new Date()];
  const headers = {
    "webhook-id": id,
    "webhook-timestamp": `${Math.floor(now / 1000)}`,
    "webhook-signature": webhooks[0].sign(id, now, `${method} ${path}.`), // The body, which is empty, follows the dot.
  };
  const signal = AbortSignal.timeout(15_000);
  const unreachable = (error) => {
    throw new Error(`cannot reach ${HOOKS}: ${error.cause?.message || error.cause?.code || error.message}`);
  };
  const url = URL.canParse(path, HOOKS) ? new URL(path, HOOKS) : unreachable(new Error("this is no URL"));
  const answer = await fetch(url, { method, headers, redirect: "error", signal }).catch(unreachable);
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path.split("?")[0]}: ${answer.status} ${text.slice(0, 200)}`);
  return text;
}

/** Takes what came of a feed while this program was away. */
async function missed(feed) {
  for (let more = true; more; ) {
    const query = new URLSearchParams({ feed, cursor: state.cursors[feed] });
    const answer = JSON.parse(await call("GET", `/endpoints/${ENDPOINT}/changes?${query}`));
    take({ ...answer, command: answer.replay === "gap" ? "gap" : "updates", feed });
    more = answer.more;
  }
}

/** Asks for what was missed, and has deliveries that wait begin again. Where this fails, bugfeed's own attempts go on. */
async function catchUp() {
  const failed = (error) => console.error(error.message);
  for (const feed of Object.keys(state.cursors)) await missed(feed).catch(failed);
  await call("POST", `/endpoints/${ENDPOINT}/ready`).then(() => console.log("said that this is ready"), failed);
}

const [, host, port] = /^(.*):(\d+)$/.exec(LISTEN);
createServer((request, response) => answer(request, response).catch(() => response.destroy())).listen(port, host, () => {
  console.log(`listens on ${LISTEN}`);
  if (HOOKS && ENDPOINT) catchUp();
});
await work();
