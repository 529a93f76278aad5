// The live page's pure part. Run: node --test tests/page/
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CatchUps, MAX_BUGS, Seen, Subscriptions, Touch, ago, backoffMs, clockAhead, closeReason, emptyTexts, feedOf, largest,
  normalTime, parseBugs, parseMessage, parseSince, reconnectMs, shownTime,
  timeBefore, took,
} from "../../src/http/page/lib.js";

const table = (name, cases, check) => {
  for (const [input, expected] of cases) test(`${name}: ${JSON.stringify(input)}`, () => check(input, expected));
};

table("bug numbers", [
  ["1234", [1234]],
  [" 1234 , 5678\n9 ", [1234, 5678, 9]],
  ["#12;#13", [12, 13]],
  ["7,7 7", [7]],
  ["0012", [12]],
  ["9007199254740991", [9007199254740991]],
], (text, bugs) => assert.deepEqual(parseBugs(text), { bugs, error: null }));

table("not bug numbers", [
  ["", /at least one/],
  [" ,, ", /at least one/],
  ["1,abc", /“abc” is not a bug number/],
  ["-5", /“-5”/],
  ["1.5", /“1\.5”/],
  ["1e3", /“1e3”/],
  ["0", /cannot be/],
  ["9007199254740993", /cannot be/],
  [`${"x".repeat(500)}`, /x…”/],
], (text, error) => {
  const parsed = parseBugs(text);
  assert.deepEqual(parsed.bugs, []);
  assert.match(parsed.error, error);
});

test("more bugs than the server takes are refused before they are sent", () => {
  const numbers = Array.from({ length: MAX_BUGS + 1 }, (_, index) => index + 1);
  assert.match(parseBugs(numbers.join(" ")).error, /at most 10000/);
  assert.equal(parseBugs(numbers.slice(1).join(" ")).bugs.length, MAX_BUGS);
});

table("times", [
  ["2014-04-03T21:13:45", "2014-04-03T21:13:45"],
  ["2014-04-03 21:13:45", "2014-04-03T21:13:45"],
  ["2014-04-03T21:13", "2014-04-03T21:13:00"],
  ["2014-04-03", "2014-04-03T00:00:00"],
  ["2014-04-03T21:13:45Z", "2014-04-03T21:13:45"],
  ["2014-04-03 21:13:45 UTC", "2014-04-03T21:13:45"],
  ["2014-04-03T21:13:45.120", "2014-04-03T21:13:45.12"],
  ["2014-04-03T21:13:45.000", "2014-04-03T21:13:45"],
  ["2014-04-03T21:13:45.123456+02:00", "2014-04-03T19:13:45.123456"],
  ["2014-04-03T21:13:45-0730", "2014-04-04T04:43:45"],
  ["2016-02-29", "2016-02-29T00:00:00"],
  ["2015-02-29", null],
  ["2014-04-31T10:00:00", null],
  ["2014-13-01", null],
  ["2014-04-03T25:00:00", null],
  ["9999-12-31T23:00:00-02:00", null],
  ["yesterday", null],
  ["", null],
], (text, expected) => assert.equal(normalTime(text), expected));

test("an empty since means none, a wrong one is explained", () => {
  assert.deepEqual(parseSince("  "), { since: null, error: null });
  assert.deepEqual(parseSince(" 2014-04-03 "), { since: "2014-04-03T00:00:00", error: null });
  assert.match(parseSince("soon").error, /“soon” is not a time/);
});

table("the largest when so far", [
  [[null, "2014-04-03T21:13:45"], "2014-04-03T21:13:45"],
  [["2014-04-03T21:13:45", "2014-04-03T21:13:44"], "2014-04-03T21:13:45"],
  [["2014-04-03T21:13:45", "2014-04-03T21:13:45.5"], "2014-04-03T21:13:45.5"],
  [["2014-04-03T21:13:45.25", "2014-04-03T21:13:45.50"], "2014-04-03T21:13:45.5"],
  [["2014-04-03T21:13:45.5", "2014-04-03T21:13:46Z"], "2014-04-03T21:13:46"],
  [["2014-04-03T21:13:45", "nonsense"], "2014-04-03T21:13:45"],
  [[null, "9999-99-99T99:99:99"], null],
  [["2014-04-03T21:13:45", "2099-01-01T00:00:00"], "2014-04-03T21:13:45"],
], ([soFar, when], expected) => assert.equal(largest(soFar, when, "2014-04-03T22:00:00"), expected));

table("ago", [
  [0, "just now"], [1_400, "just now"], [-900, "just now"], [3_000, "3 s ago"], [59_400, "59 s ago"],
  [60_000, "1 min ago"], [3_600_000, "1 h ago"], [90_000_000, "1 d ago"], [4e11, "12 y ago"], [-300_000, "in 5 min"],
], (ms, expected) => assert.equal(ago(ms), expected));

table("took", [[0.2, "1 ms"], [42.4, "42 ms"], [1_234, "1.23 s"], [12_340, "12.3 s"]],
  (ms, expected) => assert.equal(took(ms), expected));

test("a time before now is in the protocol's form", () =>
  assert.equal(timeBefore(Date.parse("2014-04-03T21:13:45.678Z"), 86_400), "2014-04-02T21:13:45"));

table("shown time", [
  ["2014-04-03T21:13:45", "2014-04-03 21:13:45 UTC"],
  ["2014-04-03T21:13:45.123456", "2014-04-03 21:13:45.123 UTC"],
  ["soon", "soon"],
], (when, expected) => assert.equal(shownTime(when), expected));

test("the server's clock counts only when it is clearly another one", () => {
  const now = Date.parse("2014-04-03T21:13:45Z");
  assert.equal(clockAhead("Thu, 03 Apr 2014 21:13:44 GMT", now), 0);
  assert.equal(clockAhead("Thu, 03 Apr 2014 21:23:45 GMT", now), 600_500);
  assert.equal(clockAhead("Thu, 03 Apr 2014 21:03:45 GMT", now), -599_500);
  for (const nothing of [null, "", "yesterday"]) assert.equal(clockAhead(nothing, now), 0);
});

table("a frame that is not understood is ignored", [
  ["not json", null], ["", null], ["null", null], ["7", null], ['"text"', null],
  ['{"command":"update"}', null],
  ['{"command":"update","bug":"1","when":"2014-04-03T21:13:45"}', null],
  ['{"command":"update","bug":1.5,"when":"2014-04-03T21:13:45"}', null],
  ['{"command":"update","bug":1,"when":null}', null],
  [`{"command":"update","bug":1,"when":"${"9".repeat(65)}"}`, null],
  ['{"command":"update","bug":1,"when":"2014-04-03T21:13:45"}', { command: "update", bug: 1, when: "2014-04-03T21:13:45" }],
  ['{"command":"nonsense"}', { command: "nonsense" }],
  ["[]", []],
], (data, expected) => assert.deepEqual(parseMessage(data), expected));

test("data that is not even text is ignored", () => assert.equal(parseMessage(new Blob(["{}"])), null));

test("the empty list tells what to do next", () => {
  assert.equal(emptyTexts([], true).command, "bugfeed watch 1234");
  assert.match(emptyTexts([], false).title, /Nothing watched/);
  assert.equal(emptyTexts([7], false).title, "Waiting for bug 7 to change");
  assert.ok(!emptyTexts([7], false).text.includes("Change bug"));
  assert.ok(emptyTexts([7], true).text.includes("Change bug"));
  assert.equal(emptyTexts([1, 2, 3, 4, 5, 6], false).title, "Waiting for one of 6 bugs to change");
  assert.equal(emptyTexts([1, 2, 3, 4, 5, 6], false).command, "bugfeed watch 1 2 3 4 5");
});

test("a change made here is timed whether its update comes before or after the answer", () => {
  const touch = new Touch(1, 1_000);
  touch.arrived(1, "2014-04-03T21:13:45.0", 1_042);
  assert.equal(touch.took({ late: false }), null, "not before the answer");
  touch.answered("2014-04-03T21:13:45");
  assert.equal(touch.took({ late: false }), 42);
});

test("somebody else's change of the same bug is not mistaken for it, unless nothing else comes", () => {
  const touch = new Touch(1, 1_000);
  touch.answered("2014-04-03T21:13:45");
  touch.arrived(2, "2014-04-03T21:13:45", 1_010);
  touch.arrived(1, "2014-04-03T21:13:44", 1_020);
  assert.equal(touch.took({ late: false }), null);
  assert.equal(touch.took({ late: true }), 20);
  touch.arrived(1, "2014-04-03T21:13:45", 1_030);
  assert.equal(touch.took({ late: false }), 30);
});

test("an answer without a time takes the first arrival", () => {
  const touch = new Touch(1, 1_000);
  touch.answered(undefined);
  assert.equal(touch.took({ late: true }), null);
  touch.arrived(1, "2014-04-03T21:13:44", 1_020);
  assert.equal(touch.took({ late: false }), 20);
});

table("feed", [["/", "default"], ["/default/", "default"], ["/mozilla/", "mozilla"], ["/a%20b/", "a b"], ["/%zz/", "%zz"]],
  (path, expected) => assert.equal(feedOf(path), expected));

test("the back-off doubles from 1 s to 30 s, within [0.5, 1] of it", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 5000].map((n) => backoffMs(n, 1)),
    [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
  assert.deepEqual([0, 1, 9].map((n) => backoffMs(n, 0)), [500, 1000, 15000]);
});

test("why the connection ended decides how soon the next one is tried", () => {
  const wait = (code, healthy, failures) => reconnectMs({ code, healthy, failures }, 1);
  assert.equal(wait(1006, true, 4), 1000, "a connection that worked starts over");
  assert.equal(wait(1006, false, 4), 16000);
  assert.equal(wait(1012, true, 0), 500, "a restart is over soon");
  assert.equal(wait(1001, false, 3), 8000, "unless it goes away before it says anything, again and again");
  for (const code of [1002, 1003, 1008, 1009]) assert.equal(wait(code, true, 0), 30000);
});

test("a close is explained, and a long reason is cut", () => {
  assert.equal(closeReason(1008, "too many subscriptions"), "refused by the server (1008: too many subscriptions)");
  assert.equal(closeReason(1012, ""), "the server is restarting");
  assert.equal(closeReason(1006, ""), "");
  assert.ok(closeReason(1006, "x".repeat(200)).length < 130);
});

test("a catch-up does not repeat what was shown", () => {
  const seen = new Seen();
  seen.note(1, "2014-04-03T21:13:45");
  const repeated = seen.filter({ resume: true });
  assert.equal(repeated(1, "2014-04-03T21:13:45.0"), true, "the same instant, written otherwise");
  assert.equal(repeated(1, "2014-04-03T21:13:46"), false);
  assert.equal(repeated(2, "2014-04-03T21:13:45"), false);
});

test("equal changes are counted: the second of two edits in one second is new", () => {
  const seen = new Seen();
  seen.note(1, "2014-04-03T21:13:45");
  const repeated = seen.filter({ resume: true });
  assert.deepEqual([1, 1].map((bug) => repeated(bug, "2014-04-03T21:13:45")), [true, false]);
});

test("each catch-up starts with a fresh count", () => {
  const seen = new Seen();
  seen.note(1, "2014-04-03T21:13:45");
  assert.equal(seen.filter({ resume: true })(1, "2014-04-03T21:13:45"), true);
  assert.equal(seen.filter({ resume: true })(1, "2014-04-03T21:13:45"), true);
});

test("what was cleared stays away on a reconnect and comes back when asked for", () => {
  const seen = new Seen();
  seen.note(1, "2014-04-03T21:13:45");
  seen.clear();
  seen.note(2, "2014-04-03T21:13:45");
  assert.equal(seen.filter({ resume: true })(1, "2014-04-03T21:13:45"), true);
  assert.equal(seen.filter({ resume: false })(1, "2014-04-03T21:13:45"), false);
  assert.equal(seen.filter({ resume: false })(2, "2014-04-03T21:13:45"), true);
});

test("the memory of what was shown is bounded, and forgets the oldest", () => {
  const seen = new Seen(10);
  for (let bug = 1; bug <= 1000; bug += 1) seen.note(bug, "2014-04-03T21:13:45");
  const repeated = seen.filter({ resume: true });
  assert.equal(repeated(1000, "2014-04-03T21:13:45"), true);
  assert.equal(repeated(991, "2014-04-03T21:13:45"), true);
  assert.equal(repeated(900, "2014-04-03T21:13:45"), false);
});

const parsed = (frames) => frames.map((text) => JSON.parse(text));
const ok = (command, bugs) => ({ command, result: "ok", bugs });

test("a subscribe is sent as the classic protocol writes it, and confirmed by the reply", () => {
  const subs = new Subscriptions();
  assert.deepEqual(subs.opened(null), [], "nothing to resume");
  assert.deepEqual(subs.subscribe([1234]), ['{"command":"subscribe","bugs":[1234]}']);
  assert.deepEqual([...subs.wanted], [1234]);
  assert.deepEqual([...subs.active], []);
  assert.equal(subs.reply(ok("subscribe", [1234])).resume, false);
  assert.deepEqual([...subs.active], [1234]);
});

test("a subscribe with since is followed by a fence that marks the end of its catch-up", () => {
  const subs = new Subscriptions();
  subs.opened(null);
  assert.deepEqual(parsed(subs.subscribe([1], "2014-04-03T21:13:45")), [
    { command: "subscribe", bugs: [1], since: "2014-04-03T21:13:45" },
    { command: "subscriptions" },
  ]);
  const op = subs.reply(ok("subscribe", [1]));
  assert.equal(subs.reply(ok("subscriptions", [1])).fence, op);
});

test("a refused subscribe takes back its own bugs only", () => {
  const subs = new Subscriptions();
  subs.opened(null);
  subs.subscribe([1]);
  subs.reply(ok("subscribe", [1]));
  subs.subscribe([1, 2]);
  subs.subscribe([3]);
  subs.reply({ command: "subscribe", result: "error", error: "no" });
  assert.deepEqual([...subs.wanted], [1, 3]);
});

test("a refused unsubscribe leaves the bug watched", () => {
  const subs = new Subscriptions();
  subs.opened(null);
  subs.subscribe([1]);
  subs.reply(ok("subscribe", [1]));
  subs.unsubscribe([1]);
  assert.deepEqual([...subs.wanted], []);
  subs.reply({ command: "unsubscribe", result: "error", error: "no" });
  assert.deepEqual([...subs.wanted], [1]);
});

test("a reconnect resumes from since; what was never confirmed keeps its own since", () => {
  const subs = new Subscriptions();
  subs.opened(null);
  subs.subscribe([1, 2]);
  subs.reply(ok("subscribe", [1, 2]));
  subs.subscribe([3], "2014-01-01T00:00:00"); // cut off before its answer
  subs.closed();
  assert.deepEqual([...subs.active], []);
  assert.deepEqual(subs.subscribe([4]), [], "nothing is sent without a connection");
  assert.deepEqual(subs.unsubscribe([2]), []);
  assert.deepEqual(parsed(subs.opened("2014-04-03T21:13:45")), [
    { command: "subscribe", bugs: [1], since: "2014-04-03T21:13:45" },
    { command: "subscriptions" },
    { command: "subscribe", bugs: [3], since: "2014-01-01T00:00:00" },
    { command: "subscriptions" },
    { command: "subscribe", bugs: [4] },
  ]);
  assert.equal(subs.reply(ok("subscribe", [1])).resume, true);
});

test("a refused resume keeps the wish, for the next connection", () => {
  const subs = new Subscriptions();
  subs.opened(null);
  subs.subscribe([1]);
  subs.reply(ok("subscribe", [1]));
  subs.closed();
  subs.opened("2014-04-03T21:13:45");
  subs.reply({ command: "subscribe", result: "error", error: "busy" });
  assert.deepEqual([...subs.wanted], [1]);
  assert.deepEqual([...subs.active], []);
});

test("a bug subscribed and removed while offline is not subscribed later", () => {
  const subs = new Subscriptions();
  subs.subscribe([1]);
  subs.unsubscribe([1]);
  assert.deepEqual(subs.opened(null), []);
});

test("replies that answer nothing, or list nonsense, do no harm", () => {
  const subs = new Subscriptions();
  subs.opened(null);
  assert.equal(subs.reply(ok("subscribe", [9])), null);
  subs.subscribe([1]);
  subs.reply(ok("subscribe", [1, "2", null, 1.5, {}]));
  assert.deepEqual([...subs.active], [1]);
  subs.subscribe([2]);
  subs.reply(ok("subscribe", "nonsense"));
  assert.deepEqual([...subs.active], [1]);
});

test("between confirmation and fence an update is catch-up, and not shown twice", () => {
  const catchUps = new CatchUps(new Seen());
  const time = "2014-04-03T21:13:45";
  assert.equal(catchUps.kindOf(1, time), "live");
  const op = { command: "subscribe", bugs: [1], since: time, resume: true };
  catchUps.answered(op, "ok");
  assert.deepEqual([1, 1, 2].map((bug) => catchUps.kindOf(bug, time)), ["repeated", "catchup", "live"]);
  catchUps.answered({ command: "subscriptions", fence: op }, "ok");
  assert.equal(catchUps.kindOf(1, time), "live", "an equal change that arrives live is another change");
});

test("no catch-up begins without since, on a refusal, or outlives its connection", () => {
  const catchUps = new CatchUps(new Seen());
  catchUps.answered({ command: "subscribe", bugs: [1], since: null }, "ok");
  assert.equal(catchUps.kindOf(1, "2014-04-03T21:13:45"), "live");
  const op = { command: "subscribe", bugs: [1], since: "2014-04-03", resume: false };
  catchUps.answered(op, "error");
  assert.equal(catchUps.kindOf(1, "2014-04-03T21:13:45"), "live");
  catchUps.answered(op, "ok");
  catchUps.closed();
  assert.equal(catchUps.kindOf(1, "2014-04-03T21:13:45"), "live");
});
