// What title and icon say. Run: node --test tests/page/
import assert from "node:assert/strict";
import { test } from "node:test";
import { iconOf, titleOf } from "../../crates/gateway/src/http/page/sign.js";

const at = (about) => ({ state: "open", unseen: 0, gap: false, ...about });

test("the title says the state, a gap, and first how many changes nobody has seen", () => {
  for (const [about, title] of [
    [{}, "bugfeed"],
    [{ state: "connecting" }, "bugfeed"],
    [{ unseen: 3 }, "(3) bugfeed"],
    [{ state: "paused" }, "Paused · bugfeed"],
    [{ state: "waiting", unseen: 1 }, "(1) Disconnected · bugfeed"],
    [{ state: "closed" }, "Stopped · bugfeed"],
    [{ gap: true, unseen: 2 }, "(2) Gap · bugfeed"],
    [{ gap: true, state: "paused" }, "Gap · Paused · bugfeed"],
  ]) assert.equal(titleOf("bugfeed", at(about)), title);
});

test("each state has an icon of its own, and so have what is new and a gap", () => {
  const icons = [{}, { state: "paused" }, { state: "waiting" }, { unseen: 1 }, { gap: true }, { state: "paused", gap: true }]
    .map((about) => iconOf(at(about)));
  assert.equal(new Set(icons).size, icons.length);
  for (const icon of icons) assert.match(icon, /^data:image\/svg\+xml,%3Csvg/);
  assert.equal(iconOf(at({ unseen: 1 })), iconOf(at({ unseen: 9 })));
});
