// The live page: one WebSocket in the classic protocol, and what it says on the screen. Nothing the server sends is
// trusted to have a form: what is not understood is ignored, and text only ever becomes textContent.
//
// Ids and attributes the browser tests rely on:
//   #state [data-state=connecting|open|waiting], #version, #feed-name
//   #bugs, #since, #subscribe, #error        the form; #error also shows the server's errors
//   #subscriptions > li[data-bug]            with [data-pending] until the server confirmed it
//   #updates > li[data-bug][data-when][data-kind=live|catchup]   newest first
//   #clear, #reconnect, #unsubscribe-all
//   #demo (hidden when the server has none), #demo-bug, #demo-touch, #demo-latency [data-kind=ok|error], #try
//
// The subscriptions are kept in the URL's fragment (/#1234,5678): a reload keeps them, and they can be bookmarked.

import {
  CatchUps, Seen, Subscriptions, Touch, ago, clockAhead, closeReason, emptyTexts, feedOf, largest, normalTime, parseBugs,
  parseMessage, parseSince, reconnectMs, shownTime, timeBefore, took,
} from "/page-lib.js";

const MAX_ROWS = 500;
const DEMO_BUG = 1234;
/** A connection that lived this long, or said anything, resets the back-off. */
const HEALTHY_MS = 10_000;
const CONNECT_TIMEOUT_MS = 15_000;
/** Browsers cannot see pings: after this much silence ask for the version, and give up if nothing comes back. */
const PROBE_AFTER_MS = 30_000;
const PROBE_TIMEOUT_MS = 10_000;
/** A first resume goes back this much further than the clocks say, because clocks differ; a repetition is harmless. */
const CLOCK_MARGIN_S = 60;
const TOUCH_TIMEOUT_MS = 10_000;

const feed = feedOf(location.pathname);
const title = feed === "default" ? "bugfeed" : `${feed} · bugfeed`;
const $ = (id) => document.getElementById(id);
const subs = new Subscriptions();
const seen = new Seen();
const catchUps = new CatchUps(seen);

/** "3 s ago" is about the tracker's and the server's clock; a browser with a wrong one should not say otherwise. */
let clockAheadMs = 0;
const serverNow = () => Date.now() + clockAheadMs;

function element(tag, className, textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}

/** Writing the same text again would disturb selections and screen readers. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// ---- The connection -------------------------------------------------------------------------------------------------

/** `failures`: in a row before this one; `heard`: whether it said anything; `probedAt`: an unanswered probe. */
const link = { socket: null, state: "connecting", why: "", failures: 0, heard: false, probedAt: null };

function address() {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${location.pathname}`;
}

function connect() {
  clearTimeout(link.retryTimer);
  Object.assign(link, { state: "connecting", heard: false, probedAt: null, startedAt: Date.now() });
  const socket = new WebSocket(address());
  link.socket = socket;
  // Every handler asks whether its socket is still the one: an abandoned one may speak up minutes later.
  socket.onopen = () => socket === link.socket && opened();
  socket.onmessage = (event) => socket === link.socket && received(event.data);
  socket.onclose = (event) => socket === link.socket && lost(event.code, event.reason);
  showState();
}

function opened() {
  Object.assign(link, { state: "open", why: "", openedAt: Date.now(), heardAt: Date.now() });
  send([JSON.stringify({ command: "version" })]);
  send(subs.opened(resumeSince()));
  if (demo.state === "unasked") probeDemo();
  showState();
  showSubscriptions();
}

function lost(code, reason) {
  const healthy = link.heard || (link.state === "open" && Date.now() - link.openedAt >= HEALTHY_MS);
  const waitMs = reconnectMs({ code, healthy, failures: link.failures }, Math.random());
  link.failures = healthy ? 0 : link.failures + 1;
  Object.assign(link, { socket: null, state: "waiting", why: closeReason(code, reason), retryAt: Date.now() + waitMs });
  link.retryTimer = setTimeout(connect, waitMs);
  subs.closed();
  catchUps.closed();
  showState();
  showSubscriptions();
}

/** Gives up on a silent connection at once: close() on a dead link only reports minutes later. */
function abandon(why) {
  const { socket } = link;
  lost(1006, why);
  socket.close();
}

function send(frames) {
  for (const frame of frames) link.socket.send(frame);
}

function probe() {
  if (link.state !== "open" || link.probedAt !== null) return;
  link.probedAt = Date.now();
  send([JSON.stringify({ command: "version" })]);
}

/** Something suggests that the network is back, or that somebody looks again: waiting longer would be silly. */
function wake() {
  if (link.state === "waiting") connect();
  else probe();
}

function watchdog(now) {
  if (link.state === "connecting" && now - link.startedAt > CONNECT_TIMEOUT_MS) abandon("no answer");
  if (link.state !== "open") return;
  if (link.probedAt !== null && now - link.probedAt > PROBE_TIMEOUT_MS) abandon("no answer");
  else if (now - link.heardAt > PROBE_AFTER_MS) probe();
}

// ---- What the server says -------------------------------------------------------------------------------------------

/** The largest `when` seen, which a reconnect resumes from. */
let lastWhen = null;
/** Stands in for it until there is one, or a change made during the first outage would be missed. */
let firstSubscribed = null;
const resumeSince = () => lastWhen ?? firstSubscribed;

function received(data) {
  Object.assign(link, { heard: true, heardAt: Date.now(), probedAt: null });
  const message = parseMessage(data);
  if (message?.command === "update") update(message);
  else if (message !== null) reply(message);
}

function reply(message) {
  if (message.command === "version" && typeof message.version === "string") {
    setText($("version"), message.version.slice(0, 40));
  }
  const op = subs.reply(message);
  if (message.result === "error") showError(typeof message.error === "string" ? message.error.slice(0, 300) : "error");
  if (op === null) return;
  if (op.command === "subscribe" && message.result === "ok") {
    firstSubscribed ??= timeBefore(serverNow(), CLOCK_MARGIN_S);
  }
  catchUps.answered(op, message.result);
  showSubscriptions();
}

function update({ bug, when }) {
  lastWhen = largest(lastWhen, when, timeBefore(serverNow(), -CLOCK_MARGIN_S));
  const kind = catchUps.kindOf(bug, when);
  if (kind === "repeated") return;
  addRow({ bug, when, kind });
  demo.touch?.arrived(bug, when, performance.now());
  demo.settle(false);
}

// ---- The screen: connection and subscriptions -----------------------------------------------------------------------

function showState() {
  const texts = { connecting: "Connecting…", open: "Connected", waiting: `Disconnected${link.why && ": "}${link.why}` };
  $("state").dataset.state = link.state;
  setText($("state-text"), texts[link.state]);
  $("reconnect").hidden = link.state !== "waiting";
  showCountdown(Date.now());
}

function showCountdown(now) {
  const seconds = Math.max(1, Math.ceil((link.retryAt - now) / 1000));
  setText($("countdown"), link.state === "waiting" ? `, reconnecting in ${seconds} s` : "");
}

function showError(text, field) {
  $("error").textContent = text;
  for (const id of ["bugs", "since"]) $(id).setAttribute("aria-invalid", String(id === field));
  if (field) $(field).focus();
}

function showSubscriptions() {
  const list = $("subscriptions");
  const chips = new Map([...list.children].map((chip) => [Number(chip.dataset.bug), chip]));
  for (const [bug, chip] of chips) if (!subs.wanted.has(bug)) removeChip(chip);
  for (const bug of subs.wanted) {
    const chip = chips.get(bug) ?? list.appendChild(newChip(bug));
    chip.toggleAttribute("data-pending", !subs.active.has(bug));
    chip.title = subs.active.has(bug) ? "" : "Not confirmed by the server yet";
  }
  const count = subs.wanted.size;
  setText($("subscription-count"), count > 0 ? String(count) : "");
  $("unsubscribe-all").hidden = count < 2;
  $("no-subscriptions").hidden = count > 0;
  const fragment = count > 0 ? `#${[...subs.wanted].join(",")}` : "";
  try {
    if (fragment !== location.hash) history.replaceState(null, "", location.pathname + location.search + fragment);
  } catch {
    // Some browsers limit how often; the fragment is a convenience and catches up with the next change.
  }
  showEmpty();
  demo.show();
}

function newChip(bug) {
  const chip = element("li", "chip");
  chip.dataset.bug = bug;
  const remove = element("button", "", "×");
  remove.type = "button";
  remove.setAttribute("aria-label", `Stop watching bug ${bug}`);
  remove.addEventListener("click", () => request(subs.unsubscribe([bug])));
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

/** Sends what `subs` returned, if there is a connection, and shows what it now holds. */
function request(frames) {
  send(frames);
  showSubscriptions();
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
  return request(subs.subscribe(bugs.bugs, since.since));
}

// ---- The screen: changes --------------------------------------------------------------------------------------------

/** Rows not on the screen yet, oldest first. A burst is drawn once per frame, and a hidden tab draws nothing. */
let fresh = [];
let drawing = false;
let total = 0;
let unseen = 0;
let unspoken = [];

function addRow(change) {
  total += 1;
  fresh.push(change);
  if (fresh.length > 2 * MAX_ROWS) fresh = fresh.slice(-MAX_ROWS);
  unspoken = [...unspoken.slice(-1), change.bug];
  if (document.hidden) document.title = `(${(unseen += 1)}) ${title}`;
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  const list = $("updates");
  const rows = fresh.slice(-MAX_ROWS).reverse().map(newRow);
  fresh = [];
  list.prepend(...rows);
  while (list.childElementCount > MAX_ROWS) list.lastElementChild.remove();
  showCounts();
  showAges();
}

function newRow({ bug, when, kind }) {
  const row = element("li", "update arrived");
  Object.assign(row.dataset, { bug, when, kind });
  const utc = normalTime(when);
  const time = element("time", "when", shownTime(when));
  if (utc) {
    time.dateTime = `${utc}Z`;
    time.title = `${new Date(`${utc}Z`).toLocaleString()} here`;
    row.dataset.ms = Date.parse(`${utc}Z`);
  }
  const label = element("span", "kind", kind === "live" ? "live" : "catch-up");
  label.title = kind === "live" ? "Arrived the moment it was made" : "Made earlier, and delivered on request";
  row.append(element("span", "bug", `Bug ${bug}`), time, element("span", "ago"), label);
  return row;
}

function showAges() {
  const now = serverNow();
  for (const row of $("updates").children) {
    if (row.dataset.ms) setText(row.querySelector(".ago"), ago(now - Number(row.dataset.ms)));
  }
}

function showCounts() {
  const shown = $("updates").childElementCount;
  setText($("update-count"), total > 0 ? String(total) : "");
  $("clear").disabled = shown === 0;
  $("bound-note").hidden = total <= shown;
  setText($("bound-note"), `The newest ${shown} of ${total} changes; older ones are not kept on this page.`);
  showEmpty();
}

function showEmpty() {
  $("empty").hidden = $("updates").childElementCount > 0;
  const texts = emptyTexts([...subs.wanted], demo.state === "there");
  for (const part of ["title", "text", "command"]) setText($(`empty-${part}`), texts[part]);
}

function clear() {
  $("updates").replaceChildren();
  fresh = [];
  total = 0;
  seen.clear();
  showCounts();
  $("changes").focus();
}

/** Screen readers hear one sentence per second at most, whatever the flood. */
function announce() {
  if (unspoken.length === 0) return;
  setText($("announce"), unspoken.length === 1 ? `Bug ${unspoken[0]} changed` : `Bug ${unspoken.at(-1)} and others changed`);
  unspoken = [];
}

// ---- The demo tracker of the all-in-one -----------------------------------------------------------------------------

const demo = {
  /** unasked, there or none. */
  state: "unasked",
  /** The change under way, one at a time. */
  touch: null,
  /** Called whenever the subscriptions changed, for who waits for one. */
  waiter: null,
  edited: false,

  bug() {
    const { bugs, error } = parseBugs($("demo-bug").value);
    return error || bugs.length !== 1 ? null : bugs[0];
  },

  show() {
    this.waiter?.();
    const [first = DEMO_BUG] = subs.wanted;
    if (!this.edited && $("demo-bug").value !== String(first)) $("demo-bug").value = first;
    $("demo").hidden = this.state !== "there";
    $("welcome").hidden = this.state !== "there" || subs.wanted.size > 0;
    const bug = this.bug();
    setText($("demo-touch"), bug === null ? "Change bug" : `Change bug ${bug}`);
    $("demo-touch").setAttribute("aria-disabled", String(this.touch !== null));
    setText($("demo-hint"), bug === null || subs.wanted.has(bug) ? "" : `Bug ${bug} is not watched yet: this subscribes to it first.`);
  },

  say(text, kind = "") {
    $("demo-latency").textContent = text;
    $("demo-latency").dataset.kind = kind;
  },

  /** Resolves once the server has confirmed the subscription; until then a change would be missed. */
  subscribed(bug) {
    if (subs.active.has(bug)) return Promise.resolve();
    if (link.state !== "open") this.say("Waiting for the connection…");
    return new Promise((resolve, reject) => {
      this.waiter = () => {
        if (subs.active.has(bug)) resolve();
        else if (!subs.wanted.has(bug)) reject(new Error(`Bug ${bug} could not be subscribed.`));
      };
      if (!subs.wanted.has(bug)) request(subs.subscribe([bug]));
    });
  },

  async change(bug) {
    if (this.touch !== null) return;
    const touch = new Touch(bug, performance.now());
    this.touch = touch;
    this.say(`Changing bug ${bug}…`);
    this.show();
    try {
      await this.subscribed(bug);
      touch.answered(await postTouch(bug));
      this.settle(false);
      setTimeout(() => this.touch === touch && this.settle(true), TOUCH_TIMEOUT_MS);
    } catch (error) {
      this.finish(error.message, "error");
    }
    this.waiter = null;
  },

  settle(late) {
    const { touch } = this;
    const ms = touch?.took({ late }) ?? null;
    if (ms !== null) this.finish(`Bug ${touch.bug}: arrived after ${took(ms)}`, "ok");
    else if (late) this.finish(`Bug ${touch.bug} was changed, but no update arrived within ${TOUCH_TIMEOUT_MS / 1000} s.`, "error");
  },

  finish(text, kind) {
    this.touch = null;
    this.say(text, kind);
    this.show();
  },
};

async function probeDemo() {
  demo.state = "none";
  // The demo tracker belongs to the default feed: on another one the change would never arrive.
  if (feed !== "default") return;
  try {
    const response = await fetch("/demo", { cache: "no-store" });
    clockAheadMs = clockAhead(response.headers.get("date"), Date.now());
    if (response.ok && (await response.json())?.touch === true) demo.state = "there";
  } catch {
    // Unreachable or cut off: the next connection asks again.
    demo.state = "unasked";
  }
  showSubscriptions();
}

async function postTouch(bug) {
  const response = await fetch("/demo/touch", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ bugs: [bug] }),
    signal: AbortSignal.timeout(TOUCH_TIMEOUT_MS),
  }).catch(() => {
    throw new Error("The demo tracker does not answer.");
  });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer?.result === "ok") return answer.when;
  throw new Error(typeof answer?.error === "string" ? answer.error.slice(0, 300) : `The demo tracker answered ${response.status}.`);
}

function submitTouch(event) {
  event.preventDefault();
  const bug = demo.bug();
  if (bug === null) demo.say("Enter one bug number, for example 1234.", "error");
  else demo.change(bug);
}

function tryIt() {
  $("demo-bug").value = DEMO_BUG;
  demo.change(DEMO_BUG);
  // The button is gone now; what it did can be repeated here.
  $("demo-touch").focus();
}

// ---- Start ----------------------------------------------------------------------------------------------------------

function tick() {
  const now = Date.now();
  watchdog(now);
  showCountdown(now);
  announce();
  if (!document.hidden) showAges();
}

function subscribeFromFragment() {
  const bugs = parseBugs(location.hash.slice(1)).bugs.filter((bug) => !subs.wanted.has(bug));
  if (bugs.length > 0) request(subs.subscribe(bugs));
}

document.title = title;
$("feed-name").textContent = feed;
$("address").textContent = address();
$("watch").addEventListener("submit", submitSubscribe);
$("unsubscribe-all").addEventListener("click", () => request(subs.unsubscribe([...subs.wanted])));
$("demo-form").addEventListener("submit", submitTouch);
$("demo-bug").addEventListener("input", () => {
  demo.edited = true;
  demo.show();
});
$("try").addEventListener("click", tryIt);
$("clear").addEventListener("click", clear);
$("reconnect").addEventListener("click", () => {
  wake();
  // The button is gone now, and the focus should not go with it.
  $("changes").focus({ preventScroll: true });
});
for (const button of document.querySelectorAll("[data-back]")) {
  button.addEventListener("click", () => {
    $("since").value = timeBefore(serverNow(), Number(button.dataset.back)).replace("T", " ");
  });
}
addEventListener("hashchange", subscribeFromFragment);
addEventListener("online", wake);
addEventListener("pageshow", (event) => event.persisted && wake());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unseen = 0;
  document.title = title;
  wake();
});

subscribeFromFragment();
showSubscriptions();
connect();
setInterval(tick, 1_000);
