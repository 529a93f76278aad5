// The live page's small decisions. Run: node --test tests/page/
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  MAX_BUGS, Touch, ago, bugsOfHash, clockAhead, clockHint, closeMeaning, emptyTexts, feedOf, localTime, matches, normalTime,
  oddDate, parseBugs, parseSince, pausedText, placeOf, repeats, shownTime, terminalCommand, timeBefore, took, verdictText,
  whyLost,
} from "../../crates/gateway/src/http/page/lib.js";

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

test("the empty list tells what to do next", () => {
  assert.match(emptyTexts([], false).title, /Nothing watched/);
  assert.equal(emptyTexts([7], false).title, "Waiting for bug 7 to change");
  assert.ok(!emptyTexts([7], false).text.includes("Change bug"));
  assert.ok(emptyTexts([7], true).text.includes("Change bug"));
  assert.equal(emptyTexts([1, 2, 3, 4, 5, 6], false).title, "Waiting for one of 6 bugs to change");
});

test("nobody is promised changes that cannot come", () => {
  const promise = /by itself|the moment|Waiting for/;
  for (const bugs of [[], [7], [7, 8]]) {
    const { title, text } = emptyTexts(bugs, true, "open");
    assert.match(`${title} ${text}`, promise);
    for (const state of ["connecting", "paused", "waiting", "closed"]) {
      const told = emptyTexts(bugs, true, state);
      assert.doesNotMatch(`${told.title} ${told.text}`.replace("not tried again by itself", ""), promise, state);
    }
  }
});

table("the command for a terminal", [
  [["target/release/bugfeed", "ws://127.0.0.1:8844/", []], "target/release/bugfeed watch 1234"],
  [["target/release/bugfeed", "ws://127.0.0.1:8854/", [7, 8]], "target/release/bugfeed watch 7 8 --url ws://127.0.0.1:8854/"],
  [[undefined, "wss://bugs.example/feed/kde/", [7]], "bugfeed watch 7 --url wss://bugs.example/feed/kde/"],
  [["bugfeed", "ws://127.0.0.1:8844/", [1, 2, 3, 4, 5, 6]], "bugfeed watch 1 2 3 4 5"],
], (args, command) => assert.equal(terminalCommand(...args), command));

const AT = Date.parse("2014-04-03T21:13:45Z");
const dated = (offsetS, kind = "live") => ({ kind, bug: 7, when: timeBefore(AT, -offsetS), at: AT });

table("odd dates", [
  [0, null], [-240, null], [60, null], [-400, "late"], [-80_000, "late"], [-90_000, "old"], [-150_000_000, "old"], [180, "ahead"],
], (offset, odd) => assert.equal(oddDate(dated(offset)), odd));

test("the date of what was made earlier, or is not known to have just come, is not odd", () => {
  assert.equal(oddDate(dated(-90_000, "catchup")), null);
  assert.equal(oddDate({ kind: "live", bug: 7, when: "2009-01-01T00:00:00" }), null);
  assert.equal(oddDate({ kind: "live", bug: 7, when: "soon", at: AT }), null);
});

table("a wrong clock", [
  [[], ""],
  [[0, 0, 0], ""],
  [[7_200], /about 2 hours ahead of the clock/],
  [[3_590], /about 1 hour ahead/],
  [[-7_200], ""],
  [[-25_200, -25_201, -25_230], /about 7 hours behind the clock/],
  [[-20_000, -20_700, -19_801], ""],
  [[-9_000, -7_200, -5_400], ""],
  [[-25_200, -25_201, 0], ""],
  [[-150_000_000, -150_000_000, -150_000_000], ""],
  [[600_000_000], ""],
], (offsets, hint) => {
  const said = clockHint(offsets.map((offset) => dated(offset)));
  if (hint === "") assert.equal(said, "");
  else assert.match(said, hint);
});

test("catch-ups, gaps and entries of an older page say nothing of the clock", () => {
  const others = [{ kind: "gap", bugs: [7], when: "2030-01-01T00:00:00" }, { kind: "live", bug: 7, when: "2014-04-03T23:13:45" }];
  assert.equal(clockHint([dated(7_200, "catchup"), ...others]), "");
});

test("a pause is told with its beginning, where that is known", () => {
  assert.match(pausedText("2014-04-03T21:13:45", AT + 60_000), /No changes can arrive just now, since .*:13:45: /);
  assert.match(pausedText(null, AT), /No changes can arrive just now: /);
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

table("feed below a path", [
  ["/feed/", "default"], ["/feed/kde/", "kde"], ["/feed/default/", "default"], ["/elsewhere/", "default"],
], (path, expected) => assert.equal(feedOf(path, "/feed/"), expected));

test("what is remembered of two gateways on one site is kept apart", () => {
  const places = [["default", "/"], ["kde", "/"], ["default", "/kde/"], ["kde", "/a/"], ["default", "/a/"]];
  assert.equal(new Set(places.map((at) => placeOf(...at))).size, places.length);
});

table("feed", [["/", "default"], ["/default/", "default"], ["/mozilla/", "mozilla"], ["/a%20b/", "a b"], ["/%zz/", "%zz"]],
  (path, expected) => assert.equal(feedOf(path), expected));

table("bugs in the address", [
  ["", [[], null]],
  ["#", [[], null]],
  ["#1234,5678", [[1234, 5678], null]],
  ["#1234%2C%205678", [[1234, 5678], null]],
  ["#changes", [[], /In this page's address: “changes” is not a bug number/]],
  ["#12,x", [[], /“x”/]],
  ["#%zz", [[], /“%zz” is no list/]],
], (hash, [bugs, error]) => {
  const parsed = bugsOfHash(hash);
  assert.deepEqual(parsed.bugs, bugs);
  if (error === null) assert.equal(parsed.error, null);
  else assert.match(parsed.error, error);
});

test("a time is shown where the person is, with its date unless that is today", () => {
  const now = Date.parse("2014-04-03T21:30:00Z");
  const shown = (when, zone) => localTime(when, now, "en-GB", zone);
  assert.equal(shown("2014-04-03T21:13:45.5", "UTC"), "21:13:45");
  assert.equal(shown("2014-04-02T21:13:45", "UTC"), "2 Apr 2014, 21:13:45");
  assert.equal(shown("2014-04-03T21:13:45", "Europe/Berlin"), "23:13:45");
  assert.equal(shown("2014-04-03T21:13:45", "Asia/Tokyo"), "06:13:45", "the 4th there, as is now");
  assert.equal(shown("0000-00-00", "UTC"), "0000-00-00");
});

test("the verdict is said in plain words, an unknown one as a gap", () => {
  assert.match(verdictText(null, 0), /changes from now on/);
  assert.match(verdictText("complete", 0), /nothing missed\.$/);
  assert.match(verdictText("complete", 2), /nothing missed, 2 caught up\.$/);
  assert.match(verdictText("latest", 1), /newest change is shown, 1 caught up/);
  for (const replay of ["gap", "else"]) assert.match(verdictText(replay, 0), /look at all bugs/);
});

table("why the connection is gone", [
  ["connection lost (1012)", "the gateway is restarting"],
  ["connection lost (1006)", ""],
  ["silence", "silence"],
  ["x".repeat(200), `${"x".repeat(120)}…`],
], (reason, text) => assert.equal(whyLost(reason), text));

test("a close code is explained, an unknown one by what to do", () => {
  assert.match(closeMeaning(1003), /binary/);
  assert.match(closeMeaning(4711), /reconnect/);
});

table("the filter", [
  ["", true],
  ["  ", true],
  ["1234", true],
  ["#1234", true],
  ["23", true],
  ["crash BOOKMARK", true],
  ["crash menu", false],
  ["1235", false],
  ["fixed", true],
], (query, expected) => assert.equal(matches(query, ["Bug 1234", "Crash of a bookmark", "RESOLVED FIXED"]), expected));

test("equal changes are counted: the second of two edits in one second is new", () => {
  const repeated = repeats([{ bug: 1, when: "2014-04-03T21:13:45" }]);
  assert.equal(repeated(2, "2014-04-03T21:13:45"), false);
  assert.equal(repeated(1, "2014-04-03T21:13:46"), false);
  assert.deepEqual(["2014-04-03T21:13:45.0", "2014-04-03T21:13:45"].map((when) => repeated(1, when)), [true, false]);
});
