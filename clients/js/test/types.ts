// Checked by package.test.mjs, never run.
import { Bugfeed, BugfeedError, webSocket, type Change, type Gap, type Transport } from "../bugfeed.js";
import { eventStream, longPoll } from "@bugfeed/client/fallback";
import { shared } from "@bugfeed/client/shared";
import { files } from "@bugfeed/client/files";

const feed = new Bugfeed("wss://bugs.example/", { bugs: [1, "2"], storage: localStorage, key: "page", cursor: null });
feed.addEventListener("change", ({ detail }) => {
  const bug: number = detail.bug;
  const when: string = detail.when;
  void [bug, when];
});
feed.addEventListener("error", ({ detail }) => detail satisfies BugfeedError);
feed.addEventListener("state", ({ detail }) => detail.state === "waiting" && detail.delay?.toFixed());
feed.addEventListener("feed", ({ detail }) => detail.state === "paused" && detail.since?.length);
feed.addEventListener("subscribed", ({ detail }) => detail.replay === "complete");
feed.subscribe(1, "2", [3]);
feed.subscribe(...[1, 2], [3, 4] as const);
feed.subscribe("all");
new Bugfeed("wss://bugs.example/", { bugs: "all" }).addEventListener("gap", ({ detail }) => detail.all === true && feed.all);
feed.cursor = feed.head;
setTimeout(feed.close, 1);
// @ts-expect-error
feed.state = "open";
// @ts-expect-error
feed.subscribe({});
// @ts-expect-error
feed.addEventListener("change", ({ detail }) => detail.bogus);

export const bot = async (): Promise<void> => {
  for await (const event of feed) {
    if (event.type === "gap") event satisfies Gap;
    else event satisfies Change;
    for (const bug of event.bugs) bug.toFixed();
  }
};
export const byFile = new Bugfeed("wss://bugs.example/", {
  storage: files,
  key: "bot.cursor",
  cursor: files.getItem("bot.cursor") ?? "since:2014-04-03T21:13:45",
});
// @ts-expect-error
files.setItem("bot.cursor", null);
feed.reconnect();
feed.feedState satisfies "live" | "paused";
export const withTokens = [undefined, null, "T.1", () => "T.1", async () => "T.1"].map(
  (token) => new Bugfeed("wss://bugs.example/", { token }),
);
// @ts-expect-error
new Bugfeed("wss://bugs.example/", { token: 7 });
export const withCookies = new Bugfeed("wss://bugs.example/", { withCredentials: true });
/** A wait with a limit: the question stays, and is waited for again. */
export const patient = async (timeout: Promise<void>): Promise<Change | Gap | undefined> => {
  const reader = feed[Symbol.asyncIterator]();
  const answer = await Promise.race([reader.next(), timeout]);
  if (!answer) await reader.return();
  return answer?.value ?? undefined;
};
void [feed.transport?.length, feed.welcome?.version?.length];
export const transports: Transport[] = [webSocket(WebSocket), eventStream(), longPoll(fetch), shared("sse", eventStream())];
