// The token with which the page connects. Run: node --test tests/page/
import assert from "node:assert/strict";
import { test } from "node:test";
import { TokenStore, parseToken, protocolsOf, tokenTrouble, wordOn } from "../../crates/gateway/src/http/page/token.js";

const TOKEN = "eyJh.eyJz_-~.c2ln";

test("a token is taken as it was copied, and an error does not show it", () => {
  for (const text of [TOKEN, ` ${TOKEN}\n`, `Bearer ${TOKEN}`, `bearer  ${TOKEN}`, `Authorization: Bearer ${TOKEN}`])
    assert.deepEqual(parseToken(text), { token: TOKEN, error: null });
  for (const text of ["", " ", "Bearer ", `${TOKEN},x`, `${TOKEN} x`, "ü"]) {
    const { token, error } = parseToken(text);
    assert.equal(token, null);
    assert.ok(error && !error.includes("eyJh"), error);
  }
});

test("which ends are about the token", () => {
  const needed = /operates it/;
  const another = /refused, or has expired/;
  for (const [error, had, told] of [
    [{ code: 4401 }, false, needed],
    [{ status: 401 }, false, needed],
    [{ code: 4401 }, true, another],
    [{ status: 401 }, true, another],
    [{ code: 4403 }, true, /taken away/],
    [{ status: 403 }, true, /not for this feed/],
    [{ status: 403 }, false, null],
    [{ status: 404 }, true, null],
    [{ code: 1002 }, true, null],
    [{}, true, null],
  ]) {
    const trouble = tokenTrouble(error, had);
    told ? assert.match(trouble, told) : assert.equal(trouble, null);
  }
});

test("the gateway is asked what it has against a token, which stands in no address", async () => {
  const asked = [];
  const answering = (status, body) => async (url, { headers }) => {
    asked.push([url.href, headers.authorization]);
    return new Response(typeof body === "string" ? body : JSON.stringify(body), { status });
  };
  const word = (...answer) => wordOn(TOKEN, "http://h/kde/?tracker=x#1,2", answering(...answer));
  assert.equal(await word(401, { error: "invalid token: it is not known" }), "invalid token: it is not known");
  assert.equal(await word(403, { error: `no ${TOKEN} here` }), "no … here");
  assert.deepEqual(asked[0], ["http://h/kde/changes?bugs=", `Bearer ${TOKEN}`]);
  for (const answer of [[200, { changes: [] }], [503, { error: "later" }], [401, "<h1>log in</h1>"], [401, { error: 7 }], [401, "null"]])
    assert.equal(await word(...answer), null);
  assert.equal(await wordOn(TOKEN, "http://h/", () => Promise.reject(new TypeError("away"))), null);
});

test("it is offered as a subprotocol", () => {
  assert.deepEqual(protocolsOf(TOKEN), ["bugfeed", `bugfeed.bearer.${TOKEN}`]);
  assert.deepEqual(protocolsOf(null), []);
});

test("it is kept by the tab, for each gateway of a site, until there is none", () => {
  const kept = new Map();
  const tab = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
  const store = new TokenStore(tab, "/");
  assert.equal(store.token, null);
  store.token = TOKEN;
  assert.equal(new TokenStore(tab, "/").token, TOKEN);
  assert.equal(new TokenStore(tab, "/bugfeed/").token, null);
  store.token = null;
  assert.deepEqual([store.token, kept.size], [null, 0]);
  kept.set("bugfeed:token:/", "no token");
  assert.equal(new TokenStore(tab, "/").token, null);
});

test("without the tab's storage it holds until the page is left", () => {
  const refuses = () => {
    throw new Error("forbidden");
  };
  for (const tab of [null, { getItem: refuses, setItem: refuses, removeItem: refuses }]) {
    const store = new TokenStore(tab, "/");
    store.token = TOKEN;
    assert.equal(store.token, TOKEN);
    store.token = null;
    assert.equal(store.token, null);
  }
});
