// The live page, put together: what is watched, the list of changes, the tracker's links, the demo, the console. It
// speaks to the gateway through the client library alone (the console apart, which is for the bare protocol).
//
// The address says what is watched (/#1234,5678): a reload keeps it, a bookmark and a copied link bring it back.
//
// Ids and attributes the browser tests rely on:
//   #state [data-state=connecting|open|paused|waiting|closed], #paused (a notice while nothing can arrive), #version, #feed-name, #protocol, #verdict [data-replay], #cursor
//   #bugs, #since, #subscribe, #error        the form; #error also shows the server's errors
//   #subscriptions > li[data-bug]            with [data-pending] until the server confirmed it
//   #updates > li[data-bug][data-when][data-kind=live|catchup] or [data-kind=gap][data-bugs]   newest first; [data-odd=
//                                            ahead|late|old] where a live one's date is; #clock-hint where all are
//   #filter, #clear, #reconnect, #unsubscribe-all, #copy-link
//   #tracker, #tracker-save, #tracker-state, #tracker-question, #tracker-accept
//   #token-form (hidden unless a token is needed), #token, #token-why, #token-error, #token-save
//   #demo (hidden when the server has none), #demo-bug, #demo-touch, #demo-latency [data-kind=ok|error], #try
//   #tab-live, #tab-console, #console-input, #console-send, #console-binary, #console-log > li[data-kind]

import { Bugfeed, webSocket } from "../client.js";
import { Console } from "./console.js";
import { Demo } from "./demo.js";
import { $, copy, element, setText } from "./dom.js";
import {
  bugsOfHash, clockAhead, emptyTexts, feedOf, parseBugs, parseSince, pausedText, placeOf, repeats, terminalCommand,
  timeBefore, took, verdictText, whyLost,
} from "./logic.js";
import { Links } from "./links.js";
import { ResumeStore } from "./resume_store.js";
import { Sign } from "./sign.js";
import { Timeline } from "./timeline.js";
import { TokenStore, parseToken, protocolsOf, tokenTrouble, wordOn } from "./token.js";
import { Watch } from "./watch.js";

/** Entries whose texts are asked for when all of the list is new to the tracker: after a reload, or with another one. */
const RESTORED = 20;
/** How often the round trip is measured while somebody looks, in seconds. */
const PING_S = 10;

/** The gateway's own path: "/", or what a proxy in front takes off. All else is asked for relative to this module. */
const root = new URL("..", import.meta.url).pathname;
const feed = feedOf(location.pathname, root);
const place = placeOf(feed, root);
const sign = new Sign(feed === "default" ? "bugfeed" : `${feed} · bugfeed`);
const address = new URL(location.pathname, location.href.replace(/^http/, "ws")).href;

/** A browser may forbid its storage; asking for it is enough to be refused. */
function storage(name) {
  try {
    return globalThis[name];
  } catch {
    return null;
  }
}

/** "3 s ago" is about the tracker's and the server's clock; a browser with a wrong one should not say otherwise. */
let clockAheadMs = 0;
const serverNow = () => Date.now() + clockAheadMs;

// ---- What there is --------------------------------------------------------------------------------------------------

const tokens = new TokenStore(storage("sessionStorage"), root);
const resumeStore = new ResumeStore(storage("sessionStorage"), storage("localStorage"), place);
const asked = bugsOfHash(location.hash);
const remembered = resumeStore.load(asked.bugs);

const links = new Links(place, storage("localStorage"), (other) => {
  // Another tracker: what is in the list is asked for again, there.
  if (other) for (const entry of timeline.entries.slice(-RESTORED)) askTracker(entry);
  timeline.refresh();
});
const timeline = new Timeline(serverNow, links, showEmpty);
/** WebSocket, and where that does not pass, what the client library has beside it. */
let transport = webSocket(WebSocket);
const library = {
  Bugfeed,
  token: () => tokens.token,
  transport: (...how) => transport(...how),
  fallBack: (proven) =>
    import("../client-fallback.js").then(
      ({ fallback }) => (transport = fallback(transport, proven)),
      () => {}, // The gateway is away altogether: the next two attempts ask again.
    ),
};
const watch = new Watch(library, address, { ...remembered, bugs: asked.bugs }, () => performance.now(), {
  state: () => {
    showState();
    showWatched();
  },
  watched: showWatched,
  change: changed,
  gap: (bugs) => show({ kind: "gap", bugs, when: new Date(serverNow()).toISOString().slice(0, 19) }),
  error: (text) => showError(text.slice(0, 300)),
  ended: askForToken,
  shown: () => repeats(timeline.entries.filter(({ kind }) => kind !== "gap")),
});
const demo = new Demo(watch);
new Console(address, () => ({
  bugs: watch.bugs.length > 0 ? watch.bugs.slice(0, 20) : [1234],
  cursor: watch.cursor ?? "unknown",
  since: timeBefore(serverNow(), 3_600),
}), () => protocolsOf(tokens.token));

// ---- Changes --------------------------------------------------------------------------------------------------------

let unspoken = [];

function changed(change) {
  show({ ...change, at: serverNow() });
  demo.arrived(change.bug, change.when);
}

function show(entry) {
  timeline.add(entry);
  askTracker(entry);
  unspoken = [...unspoken.slice(-1), entry];
  sign.arrived(entry);
}

function askTracker({ kind, bug, bugs, when }) {
  if (kind === "gap") links.ask(bugs);
  else links.ask([bug], when);
}

/** Screen readers hear one sentence per second at most, whatever the flood. */
function announce() {
  const last = unspoken.at(-1);
  if (!last) return;
  const text = last.kind === "gap" ? `Gap: ${last.bugs.length} bugs may have changed` : `Bug ${last.bug} changed`;
  setText($("announce"), unspoken.length === 1 ? text : `${text}, and others`);
  unspoken = [];
}

function showEmpty() {
  const texts = emptyTexts(watch.bugs, demo.isThere, watch.shownState);
  for (const part of ["title", "text"]) setText($(`empty-${part}`), texts[part]);
  setText($("empty-command"), terminalCommand(program, address, watch.bugs));
}

// ---- Connection and subscriptions -----------------------------------------------------------------------------------

function showState() {
  const why = whyLost(watch.why);
  const texts = {
    connecting: "Connecting…",
    open: "Connected",
    paused: "Paused",
    waiting: `Disconnected${why && ": "}${why}`,
    closed: `Stopped: ${$("token-form").hidden ? watch.why : "a token is needed"}`,
  };
  $("state").dataset.state = watch.shownState;
  setText($("state-text"), texts[watch.shownState]);
  $("paused").hidden = watch.shownState !== "paused";
  if (watch.state === "open") $("token-form").hidden = true;
  sign.became(watch.shownState);
  const canRetry = watch.state === "waiting" || watch.state === "closed";
  if ($("reconnect").contains(document.activeElement) && !canRetry) $("changes").focus({ preventScroll: true });
  $("reconnect").hidden = !canRetry;
  showEmpty();
  showFacts();
}

/** What changes by the second. */
function showFacts() {
  const { state, tap, protocol, cursor, verdict, retryAt, pausedSince, bugs } = watch;
  const hasVerdict = watch.shownState === "open" && bugs.length > 0;
  const seconds = Math.max(1, Math.ceil((retryAt - performance.now()) / 1000));
  setText($("countdown"), state === "waiting" ? `, reconnecting in ${seconds} s` : "");
  if (tap.version) setText($("version"), tap.version);
  setText($("protocol"), protocol ?? "–");
  setText($("round-trip"), tap.roundTripMs === null ? "–" : took(tap.roundTripMs));
  const silent = tap.heartbeatAt === null ? null : Math.round((performance.now() - tap.heartbeatAt) / 1000);
  setText($("heartbeat"), silent === null ? "–" : `${silent} s ago`);
  setText($("cursor"), cursor ?? "–");
  $("cursor").title = cursor ?? "";
  setText($("verdict"), hasVerdict ? verdictText(verdict.replay, verdict.count) : "");
  $("verdict").dataset.replay = (hasVerdict && verdict.replay) || "";
  // Not by the second: screen readers would read it out each time.
  setText($("paused"), watch.shownState === "paused" ? pausedText(pausedSince, serverNow()) : "");
}

function showError(text, field) {
  $("error").textContent = text;
  for (const id of ["bugs", "since"]) $(id).setAttribute("aria-invalid", String(id === field));
  if (field) $(field).focus();
}

function showWatched() {
  const { bugs, active } = watch;
  const wanted = new Set(bugs);
  const list = $("subscriptions");
  const chips = new Map([...list.children].map((chip) => [Number(chip.dataset.bug), chip]));
  for (const [bug, chip] of chips) if (!wanted.has(bug)) removeChip(chip);
  for (const bug of bugs) {
    const chip = chips.get(bug) ?? list.appendChild(newChip(bug));
    chip.toggleAttribute("data-pending", !active.has(bug));
    chip.title = active.has(bug) ? "" : "Not confirmed by the gateway yet";
  }
  setText($("subscription-count"), bugs.length > 0 ? String(bugs.length) : "");
  $("unsubscribe-all").hidden = bugs.length < 2;
  $("copy-link").hidden = bugs.length === 0;
  $("no-subscriptions").hidden = bugs.length > 0;
  showAddress();
  showFacts();
  showEmpty();
  demo.show();
}

/** Where that is why the feed has ended. The one that was refused is of no use any more. */
function askForToken(error) {
  const why = tokenTrouble(error, tokens.token !== null);
  if (why === null) return;
  tokens.token = null;
  showError("");
  setText($("token-why"), why);
  setText($("token-error"), "");
  $("token-form").hidden = false;
  // Who is busy elsewhere on the page is not torn away.
  if (document.activeElement === document.body) $("token").focus();
}

async function submitToken(event) {
  event.preventDefault();
  const { token, error } = parseToken($("token").value);
  $("token-save").disabled = true;
  const refusal = error ?? (await wordOn(token, location.href, fetch));
  $("token-save").disabled = false;
  setText($("token-error"), refusal ?? "");
  $("token").setAttribute("aria-invalid", String(refusal !== null));
  if (refusal !== null) return $("token").focus();
  $("token").value = "";
  $("token-form").hidden = true;
  tokens.token = token;
  $("changes").focus({ preventScroll: true });
  return watch.retry();
}

function showAddress() {
  const { bugs } = watch;
  const fragment = bugs.length > 0 ? `#${bugs.join()}` : "";
  try {
    if (fragment !== location.hash) history.replaceState(null, "", location.pathname + location.search + fragment);
  } catch {
    // Some browsers limit how often; the fragment catches up with the next change.
  }
}

function newChip(bug) {
  const chip = element("li", "chip");
  chip.dataset.bug = bug;
  const remove = element("button", "", "×");
  remove.type = "button";
  remove.setAttribute("aria-label", `Stop watching bug ${bug}`);
  remove.addEventListener("click", () => watch.unsubscribe([bug]));
  chip.append(element("span", "", String(bug)), remove);
  return chip;
}

function removeChip(chip) {
  // Who removes chips by keyboard goes on with the next one instead of being thrown to the top of the page.
  if (chip.contains(document.activeElement)) {
    const next = chip.nextElementSibling ?? chip.previousElementSibling;
    (next?.querySelector("button") ?? $("bugs")).focus();
  }
  chip.remove();
}

function submitSubscribe(event) {
  event.preventDefault();
  const bugs = parseBugs($("bugs").value);
  if (bugs.error) return showError(bugs.error, "bugs");
  const since = parseSince($("since").value);
  if (since.error) return showError(since.error, "since");
  showError("");
  // A `since` left behind would silently apply to the next subscribe.
  for (const id of ["bugs", "since"]) $(id).value = "";
  return watch.subscribe(bugs.bugs, since.since);
}

/** The address was edited, or a link within it followed: it says what is watched, no more and no less. */
function followHash() {
  const { bugs, error } = bugsOfHash(location.hash);
  showError(error ?? "");
  if (error) return showAddress();
  const gone = watch.bugs.filter((bug) => !bugs.includes(bug));
  if (bugs.length > 0) watch.subscribe(bugs);
  if (gone.length > 0) watch.unsubscribe(gone);
  return undefined;
}

let copied;
async function copyLink() {
  const done = await copy(`${location.origin}${location.pathname}${links.query}#${watch.bugs.join()}`);
  setText($("copied"), done ? "Link copied" : "Copy the address of this page");
  clearTimeout(copied);
  copied = setTimeout(() => setText($("copied"), ""), 4_000);
}

// ---- The gateway that serves this page ------------------------------------------------------------------------------

/** Whether there is a demo tracker, and where the feeds' bugs are. Asked until it answers. */
let about = "unasked";
/** What the gateway's program is called, where this is its machine. */
let program;

async function askAbout() {
  about = "asked";
  try {
    const response = await fetch(new URL("../page.json", import.meta.url), { cache: "no-store" });
    clockAheadMs = clockAhead(response.headers.get("date"), Date.now());
    const { demo: hasDemo, trackers, command } = response.ok ? await response.json() : {};
    if (typeof command === "string") program = command;
    // The demo tracker belongs to the default feed: on another one the change would never arrive.
    demo.isThere = hasDemo === true && feed === "default";
    links.offer(typeof trackers?.[feed] === "string" ? trackers[feed] : null);
  } catch {
    about = "unasked";
  }
  showWatched();
}

// ---- Start ----------------------------------------------------------------------------------------------------------

let saved = "";

/** Writes down where this page is, if that is another place than before. */
function save() {
  const { bugs, cursor } = watch;
  const { entries, filter } = timeline;
  const state = JSON.stringify([bugs, cursor, entries.length, entries.at(-1), filter]);
  if (state === saved) return;
  saved = state;
  resumeStore.save({ bugs, cursor, entries, filter });
}

let ticks = 0;

function tick() {
  ticks += 1;
  announce();
  save();
  if (about === "unasked" && watch.state === "open") askAbout();
  if (document.hidden) return;
  showFacts();
  timeline.showAges();
  if (ticks % PING_S === 0) watch.tap.ping();
}

/** @param {string} wanted live or console */
function showTab(wanted) {
  for (const name of ["live", "console"]) {
    const isWanted = name === wanted;
    $(`tab-${name}`).setAttribute("aria-selected", String(isWanted));
    $(`tab-${name}`).tabIndex = isWanted ? 0 : -1;
    $(name).hidden = !isWanted;
  }
}

for (const [name, other] of [["live", "console"], ["console", "live"]]) {
  $(`tab-${name}`).addEventListener("click", () => showTab(name));
  $(`tab-${name}`).addEventListener("keydown", ({ key }) => {
    if (!["ArrowLeft", "ArrowRight"].includes(key)) return;
    showTab(other);
    $(`tab-${other}`).focus();
  });
}

setText($("feed-name"), feed);
setText($("address"), address);
timeline.restore(remembered.entries, remembered.filter);
links.start();
if (asked.error) showError(asked.error);

$("watch").addEventListener("submit", submitSubscribe);
$("token-form").addEventListener("submit", submitToken);
$("unsubscribe-all").addEventListener("click", () => watch.unsubscribe(watch.bugs));
$("copy-link").addEventListener("click", copyLink);
$("reconnect").addEventListener("click", () => watch.retry());
$("skip").addEventListener("click", (event) => {
  // The fragment is the list of bugs.
  event.preventDefault();
  showTab("live");
  $("changes").focus();
});
for (const button of document.querySelectorAll("[data-back]")) {
  button.addEventListener("click", () => {
    $("since").value = timeBefore(serverNow(), Number(button.dataset.back)).replace("T", " ");
  });
}
addEventListener("hashchange", followHash);
addEventListener("pagehide", save);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return save();
  sign.looked();
  return tick();
});
for (const deed of ["pointerdown", "keydown"]) addEventListener(deed, () => sign.looked(), { passive: true });

showState();
showWatched();
askAbout();
setInterval(tick, 1_000);
