// Where a page resumes. Run: node --test tests/page/
import assert from "node:assert/strict";
import { test } from "node:test";
import { Memory } from "../../crates/gateway/src/http/page/memory.js";

class Storage {
  kept = new Map();
  getItem = (key) => this.kept.get(key) ?? null;
  setItem = (key, value) => this.kept.set(key, value);
}

const ENTRY = { kind: "live", bug: 1, when: "2014-04-03T21:13:45" };

test("a reload goes on where this tab's list ends", () => {
  const [tab, browser] = [new Storage(), new Storage()];
  new Memory(tab, browser, "default").save({ bugs: [1, 2], cursor: "E.5", entries: [ENTRY], filter: "crash" });
  // Another tab with the same bugs is further on: its list is not this one's.
  new Memory(new Storage(), browser, "default").save({ bugs: [1, 2], cursor: "E.9", entries: [], filter: "" });
  const memory = new Memory(tab, browser, "default");
  assert.deepEqual(memory.load([2, 1]), { cursor: "E.5", entries: [ENTRY], filter: "crash" });
  assert.equal(memory.load([1]).cursor, "E.5", "fewer bugs");
  assert.equal(memory.load([1, 3]).cursor, "E.5", "rather too much than too little");
  assert.equal(memory.load([3]).cursor, null, "other bugs");
  assert.deepEqual(memory.load([]), { cursor: null, entries: [ENTRY], filter: "crash" });
});

test("a new tab goes on where any tab with the same bugs of the same feed was last", () => {
  const browser = new Storage();
  const visit = (feed, bugs, cursor) => new Memory(new Storage(), browser, feed).save({ bugs, cursor, entries: [], filter: "" });
  const resumed = (feed, bugs) => new Memory(new Storage(), browser, feed).load(bugs).cursor;
  visit("default", [10, 9], "E.5");
  assert.equal(resumed("default", [9, 10]), "E.5");
  assert.equal(resumed("default", [9]), null, "a cursor speaks for the bugs that were watched with it");
  assert.equal(resumed("kde", [9, 10]), null);
  visit("default", [9, 10], "E.6");
  visit("default", [], "E.7");
  visit("default", [8], null);
  assert.equal(resumed("default", [9, 10]), "E.6");
  assert.equal(resumed("default", []), null);
  assert.equal(resumed("default", [8]), null);

  for (let bug = 100; bug < 119; bug += 1) visit("default", [bug], "E.8");
  assert.equal(resumed("default", [9, 10]), "E.6");
  visit("default", [119], "E.8");
  assert.equal(resumed("default", [9, 10]), null, "the twenty visited last");
  visit("default", Array.from({ length: 500 }, (_, index) => 10_000 + index), "E.9");
  assert.ok(browser.getItem("bugfeed:visits").length < 1_000, "long lists are not kept");
});

test("storage that is forbidden, full, or holds nonsense is no trouble", () => {
  const nothing = { cursor: null, entries: [], filter: "" };
  const broken = { getItem: () => { throw new Error("no"); }, setItem: () => { throw new Error("full"); } };
  for (const storage of [null, broken]) {
    const memory = new Memory(storage, storage, "default");
    memory.save({ bugs: [1], cursor: "E.5", entries: [], filter: "" });
    assert.deepEqual(memory.load([1]), nothing);
  }
  for (const text of ["", "{", "null", "7", "[]", '{"bugs":7,"entries":[null,7,{"kind":"x"},{"kind":"gap","bugs":["x"]}],"cursor":7,"filter":[]}']) {
    const storage = new Storage();
    storage.setItem("bugfeed:default", text);
    storage.setItem("bugfeed:visits", text);
    assert.deepEqual(new Memory(storage, storage, "default").load([1]), nothing, text);
  }
});
