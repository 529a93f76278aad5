// A bot that asks the tracker about each bug that changed, and says what became of it. It survives kill -9, and the
// tracker's and the gateway's absence, without missing a change: how far it is lies in a file.
//     npm install
//     node bot.mjs 1234 5678
// In the environment: FEED (ws://127.0.0.1:8844/), BUGFEED_TOKEN, where the gateway asks for one, CURSOR (bot.cursor) and
// TRACKER, a Bugzilla with a REST API such as https://bugs.example.org/; without it the bot only tells which bugs to look at.
import { setTimeout as sleep } from "node:timers/promises";
import { Bugfeed } from "@bugfeed/client";
import { files } from "@bugfeed/client/files";
import { WebSocket } from "ws"; // Node 22 has one of its own.

const { FEED = "ws://127.0.0.1:8844/", BUGFEED_TOKEN: token, CURSOR = "bot.cursor", TRACKER } = process.env;
const bugs = process.argv.slice(2);
if (!bugs.length) {
  console.error("usage: node bot.mjs BUG…");
  process.exit(2);
}

/** What the tracker says about a bug; it is asked until it answers. */
async function look(bug) {
  const url = new URL(`rest/bug/${bug}?include_fields=summary,status`, TRACKER);
  for (let tries = 0; ; tries++) {
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(30_000) });
      const said = await answer.json().catch(() => ({}));
      if (answer.ok && said.bugs?.[0]) return `${said.bugs[0].status}: ${said.bugs[0].summary}`;
      // No such bug, or not for us: the feed tells of all bugs, the tracker knows who may read which. It says so in JSON;
      // a proxy that answers in its place while it restarts, 404 perhaps, does not.
      if (said.error === true && answer.status < 500 && answer.status !== 429) return `not for us (${answer.status})`;
      throw new Error(`${answer.status} ${answer.statusText}`);
    } catch (error) {
      const seconds = Math.min(2 ** tries, 60) * (0.5 + Math.random() / 2);
      console.error(`bug ${bug}: ${error.message}; asking again in ${seconds.toFixed(1)} s`);
      await sleep(seconds * 1000);
    }
  }
}

const feed = new Bugfeed(FEED, { bugs, token, storage: files, key: CURSOR, WebSocket });
feed.addEventListener("state", ({ detail }) => console.error(detail.state, detail.reason ?? ""));
feed.addEventListener("feed", ({ detail }) => console.error(`the feed is ${detail.state}`));
feed.addEventListener("error", ({ detail }) => console.error(detail.message));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, feed.close);
// The cursor is stored when the loop asks for the next event: whoever dies before that gets this one again.
for await (const event of feed) {
  for (const bug of event.bugs) {
    const why = event.type === "gap" ? "may have changed" : `changed at ${event.when}`;
    console.log(`bug ${bug} ${why}${TRACKER ? `: ${await look(bug)}` : ""}`);
  }
}
