// The tracker's links, and what its API is asked. Run: node --test tests/page/
import assert from "node:assert/strict";
import { test } from "node:test";
import { Details, changeLines, chooseTemplate, parseTemplate } from "../../crates/gateway/src/http/page/tracker.js";

const BMO = "https://bugzilla.mozilla.org/show_bug.cgi?id={bug}";
const T = "2014-04-03T21:13:45";

for (const [template, link, rest] of [
  [BMO, "https://bugzilla.mozilla.org/show_bug.cgi?id=7", "https://bugzilla.mozilla.org/rest/"],
  [" http://h:8080/bugs/show_bug.cgi?id={bug}#c0 ", "http://h:8080/bugs/show_bug.cgi?id=7#c0", "http://h:8080/bugs/rest/"],
  ["https://bugs.kde.org/{bug}", "https://bugs.kde.org/7", null],
  ["https://h/{bug}/show_bug.cgi?x={bug}", "https://h/7/show_bug.cgi?x=7", "https://h/1/rest/"],
]) {
  test(`a template: ${template}`, () => {
    const tracker = parseTemplate(template);
    assert.equal(tracker.link(7), link);
    assert.equal(tracker.rest, rest);
  });
}

for (const [template, error] of [
  ["", /\{bug\}/],
  ["https://h/1", /\{bug\}/],
  ["javascript:alert({bug})", /https:\/\/ or http/],
  ["JavaScript:alert({bug})", /https:\/\/ or http/],
  ["data:text/html,{bug}", /https:\/\/ or http/],
  ["/show_bug.cgi?id={bug}", /no address/],
  ["https://me:secret@h/{bug}", /password/],
  ["https://{bug}.h/", /behind the tracker's name/],
  ["https://h:{bug}/", /behind the tracker's name/],
  [`https://h/{bug}${"x".repeat(500)}`, /too long/],
]) {
  test(`no template: ${template.slice(0, 40)}`, () => assert.match(parseTemplate(template).error, error));
}

test("an address that came with a link is asked about, unless it is known", () => {
  const [saved, offered, asked] = ["https://s/{bug}", "https://o/{bug}", "https://a/{bug}"];
  const none = { asked: null, saved: null, offered: null };
  assert.deepEqual(chooseTemplate(none), { current: null, question: null });
  assert.deepEqual(chooseTemplate({ ...none, offered }), { current: offered, question: null });
  assert.deepEqual(chooseTemplate({ ...none, offered, saved }), { current: saved, question: null });
  assert.deepEqual(chooseTemplate({ asked, saved, offered }), { current: saved, question: asked });
  assert.deepEqual(chooseTemplate({ asked: saved, saved, offered }), { current: saved, question: null });
  assert.deepEqual(chooseTemplate({ asked: offered, saved, offered }), { current: offered, question: null });
  assert.deepEqual(chooseTemplate({ asked: "javascript:{bug}", saved: "nonsense", offered }), { current: offered, question: null });
});

test("what changed, in lines", () => {
  assert.deepEqual(changeLines([
    { field_name: "status", removed: "NEW", added: "RESOLVED" },
    { field_name: "cf_tracking_flag", removed: "", added: "+" },
    { field_name: "keywords", removed: "regression", added: "" },
    { field_name: "cc", removed: "", added: "somebody" },
    { field_name: "x", removed: "y".repeat(500), added: "z" },
  ]), ["status: NEW → RESOLVED", "tracking flag: +", "keywords: no longer regression", `x: ${"y".repeat(80)}… → z`]);
});

/** A tracker that answers by hand, with a clock and timers to push. */
function start(answers) {
  const it = { asked: [], told: 0, now: 0, timers: [], atOnce: 0, most: 0 };
  const fetch = async (url, options) => {
    const path = url.replace("https://h/rest/", "");
    it.asked.push(path);
    it.options = options;
    it.most = Math.max(it.most, (it.atOnce += 1));
    await new Promise((done) => setImmediate(done));
    it.atOnce -= 1;
    const answer = answers(path);
    if (answer instanceof Error) throw answer;
    return { ok: answer.status === undefined, status: answer.status ?? 200, headers: new Headers(answer.headers), json: async () => answer };
  };
  const later = (then, ms) => it.timers.push({ then, due: it.now + ms });
  it.details = new Details("https://h/rest/", { fetch, now: () => it.now, later }, () => (it.told += 1));
  it.elapse = async () => {
    const [timer] = it.timers.sort((a, b) => a.due - b.due).splice(0, 1);
    it.now = timer.due;
    timer.then();
    for (let turn = 0; turn < 50; turn += 1) await new Promise((done) => setImmediate(done));
  };
  return it;
}

const summary = (id) => ({ id: Number(id), summary: `Summary ${id}`, status: "RESOLVED", resolution: "FIXED" });
function bugzilla(path) {
  const id = /^bug\/(\d+)\//.exec(path)?.[1];
  if (path.includes("/history")) {
    if (id === "3") return { bugs: [{ history: [] }] };
    return { bugs: [{ history: [
      { when: "2014-04-03T21:13:45Z", who: "kim", changes: [{ field_name: "status", removed: "NEW", added: "ASSIGNED" }] },
      { when: "2014-04-03T22:00:00Z", who: "kim", changes: [{ field_name: "status", removed: "ASSIGNED", added: "NEW" }] },
    ] }] };
  }
  if (path.includes("/comment")) return { bugs: { [id]: { comments: [{ creator: "robin", time: `${T}Z`, text: "<b>me too</b>" }] } } };
  return { bugs: new URLSearchParams(path.slice(4)).get("id").split(",").map(summary) };
}

test("bugs are asked for together, and each change for itself", async () => {
  const it = start(bugzilla);
  for (const bug of [1, 2, 1]) it.details.ask(bug);
  it.details.ask(2, T);
  it.details.ask(3, `${T}.5`);
  assert.deepEqual(it.asked, [], "in a moment");
  await it.elapse();
  assert.deepEqual(it.asked.toSorted(), [
    "bug/2/history?new_since=2014-04-03T21:13:44Z",
    "bug/3/comment?new_since=2014-04-03T21:13:44Z&include_fields=creator,time,text",
    "bug/3/history?new_since=2014-04-03T21:13:44Z",
    "bug?id=1,2,3&include_fields=id,summary,status,resolution",
  ]);
  assert.deepEqual(it.details.bug(1), { summary: "Summary 1", status: "RESOLVED FIXED" });
  assert.deepEqual(it.details.what(2, T), ["status: NEW → ASSIGNED, by kim"], "and not what came later");
  assert.deepEqual(it.details.what(3, T), ["comment by robin: “<b>me too</b>”"]);
  assert.equal(it.options.credentials, "same-origin");
  assert.ok(it.told >= 3);
});

test("a flood is asked for in batches, two requests at a time, the newest first", async () => {
  const it = start(bugzilla);
  for (let bug = 1; bug <= 1_000; bug += 1) it.details.ask(bug, T);
  await it.elapse();
  for (let turn = 0; turn < 2_000; turn += 1) await new Promise((done) => setImmediate(done));
  assert.equal(it.most, 2);
  const batches = it.asked.filter((path) => path.startsWith("bug?"));
  assert.deepEqual(batches.map((path) => path.split(",").length - 3), [50, 50, 50, 50], "the rest is let go");
  assert.match(batches[0], /,1000&/);
  assert.equal(it.asked.filter((path) => path.includes("/history")).length, 200);
  assert.match(it.asked.find((path) => path.includes("history")), /bug\/1000\//);
});

test("a tracker that fails is left alone, longer each time, and taken up again", async () => {
  let isWell = false;
  const it = start((path) => (isWell ? bugzilla(path) : new TypeError("Failed to fetch")));
  for (let bug = 1; bug <= 50; bug += 1) it.details.ask(bug, T);
  await it.elapse();
  const pauses = [];
  for (let round = 0; round < 9; round += 1) {
    assert.match(it.details.trouble.why, /cannot be reached/);
    pauses.push((it.details.trouble.until - it.now) / 1_000);
    const asked = it.asked.length;
    it.details.ask(77);
    await it.elapse();
    assert.equal(it.asked.length, asked, "nothing is asked meanwhile");
    isWell = round === 8;
    await it.elapse();
  }
  assert.deepEqual(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
  assert.equal(it.details.trouble, null);
  assert.equal(it.details.bug(77).summary, "Summary 77");
});

test("a tracker's wish to be left alone is respected; a bug that is not everybody's to see is no trouble", async () => {
  const busy = start(() => ({ status: 429, headers: { "Retry-After": "60" } }));
  busy.details.ask(1);
  await busy.elapse();
  assert.deepEqual(busy.details.trouble, { why: "it answered 429", until: 200 + 60_000 });

  const secret = start((path) => (path.startsWith("bug?") ? { bugs: [] } : { status: 401 }));
  secret.details.ask(1, T);
  await secret.elapse();
  assert.equal(secret.details.trouble, null);
  assert.deepEqual(secret.details.what(1, T), []);
});

test("who is closed says nothing and asks nothing any more", async () => {
  const it = start(bugzilla);
  it.details.ask(1, T);
  it.details.close();
  await it.elapse();
  assert.deepEqual(it.asked, []);
});
