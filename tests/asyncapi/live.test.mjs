// What the real gateway sends is what the documents say.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { Gateway, binary } from "../../clients/js/test/support.mjs";
import { asyncapi, faults, messagesOf, openapi, schemaOf } from "./documents.mjs";

const missing = !binary && "no gateway: set BUGFEED_TEST_BIN, or run cargo build";
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

/** Names of the messages that were received. */
const seen = new Set();

/** Checks a message of the gateway; its name. */
function check(text, known = messagesOf("send")) {
  const message = JSON.parse(text);
  const kinds = known.filter((kind) => faults(schemaOf(kind), message) === "");
  assert.ok(kinds.length > 0, `undocumented: ${text}`);
  // Of two, the one that asks for more: a modern update is a classic one with a cursor.
  const required = (kind) => asyncapi.components.schemas[schemaOf(kind)].required;
  const kind = kinds.sort((a, b) => required(b).length - required(a).length)[0];
  const { properties } = asyncapi.components.schemas[schemaOf(kind)];
  for (const member of Object.keys(message)) assert.ok(member in properties, `undocumented member: ${text}`);
  const name = Object.keys(asyncapi.components.messages).find((name) => asyncapi.components.messages[name] === kind);
  seen.add(name);
  return name;
}

class Client {
  constructor(url) {
    this.socket = new WebSocket(url);
    this.socket.onmessage = ({ data }) => {
      this.texts.push(data);
      this.wake?.();
    };
    this.opened = new Promise((resolve) => (this.socket.onopen = resolve));
    this.closed = new Promise((resolve) => (this.socket.onclose = ({ code }) => resolve(code)));
  }
  texts = [];

  async next() {
    while (this.texts.length === 0) await new Promise((resolve) => (this.wake = resolve));
    return check(this.texts.shift());
  }

  ask(command) {
    this.socket.send(typeof command === "string" ? command : JSON.stringify(command));
    return this.next();
  }
}

test("against the real gateway", { skip: missing, timeout: 60_000 }, async (context) => {
  let gateway;
  before(async () => (gateway = await Gateway.start()));
  after(() => gateway?.end());

  await context.test("classic", async () => {
    const client = new Client(gateway.url);
    await client.opened;
    for (const [command, want] of [
      [{ command: "version" }, "running"],
      [{ command: "subscriptions" }, "bugList"],
      [{ command: "subscribe", bugs: [1, "2"] }, "bugList"],
      [{ command: "unsubscribe", bugs: 2 }, "bugList"],
      [{ command: "subscribe", bugs: 0 }, "refusal"],
      [{ command: "x".repeat(100) }, "refusal"],
      ["nonsense", "refusal"],
      ["{}", "refusal"],
    ]) {
      assert.equal(await client.ask(command), want, JSON.stringify(command));
    }
    gateway.touch(1);
    assert.equal(await client.next(), "update");
    client.socket.close();
  });

  await context.test("modern, to the end of the gateway", async () => {
    const client = new Client(`${gateway.url}default/`);
    await client.opened;
    for (const [command, want] of [
      [{ command: "hello", heartbeat: 1 }, "welcome"],
      [{ command: "subscribe", bugs: [1] }, "subscribed"],
      [{ command: "subscribe", bugs: [1, 2], cursor: "unknown" }, "subscribed"],
      [{ command: "unsubscribe", bugs: [2] }, "unsubscribed"],
      [{ command: "subscriptions" }, "bugList"],
      [{ command: "subscribe", bugs: [1], cursor: 5 }, "refusal"],
    ]) {
      assert.equal(await client.ask(command), want, JSON.stringify(command));
    }
    gateway.touch(1);
    let name;
    while ((name = await client.next()) !== "updateWithCursor") assert.equal(name, "heartbeat");
    assert.equal(await client.next(), "heartbeat");
  });

  await context.test("server-sent events", async () => {
    const events = messagesOf("send").filter(
      (kind) => Object.values(asyncapi.channels.sse.messages).some(({ $ref }) => $ref.endsWith(`/${nameOf(kind)}`)),
    );
    const answer = await fetch(`http://127.0.0.1:${gateway.port}/sse?bugs=1&heartbeat=1`);
    assert.equal(answer.status, 200);
    const names = [];
    let text = "";
    gateway.touch(1);
    for await (const bytes of answer.body) {
      text += new TextDecoder().decode(bytes);
      const pieces = text.split("\n\n");
      text = pieces.pop();
      for (const [, data] of pieces.map((piece) => piece.match(/^data: (.*)$/m) ?? [])) {
        if (data) names.push(check(data, events));
      }
      if (["updateWithCursor", "heartbeat"].every((name) => names.includes(name))) break;
    }
    assert.deepEqual(names.slice(0, 2), ["welcome", "subscribed"]);
  });

  await context.test("long-poll", async () => {
    const url = `http://127.0.0.1:${gateway.port}/changes`;
    for (const [query, status, schema] of [
      ["?bugs=1&since=2014-04-03", 200, "Answer"],
      ["?bugs=1,2&cursor=unknown", 200, "Answer"],
      ["?bugs=", 200, "Answer"],
      ["", 400, "Wrong"],
      ["?bugs=x", 400, "Wrong"],
      ["?bugs=1&wait=61", 400, "Wrong"],
    ]) {
      const answer = await fetch(url + query);
      assert.equal(answer.status, status, query);
      const body = await answer.json();
      assert.equal(faults(schema, body, "openapi"), "", JSON.stringify(body));
      const { properties } = openapi.components.schemas[schema];
      for (const member of Object.keys(body)) assert.ok(member in properties, `undocumented member: ${member}`);
    }
  });

  await context.test("a form that is too long", async () => {
    const body = new URLSearchParams({ bugs: "1,".repeat(200_000) });
    for (const path of ["sse", "changes"]) {
      const answer = await fetch(`http://127.0.0.1:${gateway.port}/${path}`, { method: "POST", body });
      assert.equal(answer.status, 413, path);
      assert.equal(faults("Wrong", await answer.json(), "openapi"), "");
    }
  });

  await context.test("webhooks", async () => {
    const token = readFileSync(`${gateway.dir}/admin.token`, "utf8").trim();
    const ask = async (schema, path, init = {}) => {
      const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
      const answer = await fetch(`http://127.0.0.1:${gateway.admin}/api${path}`, { headers, ...init });
      const body = await answer.json();
      assert.equal(faults(schema, body, "openapi"), "", JSON.stringify(body));
      const { properties } = openapi.components.schemas[schema];
      for (const member of Object.keys(body)) assert.ok(member in properties, `undocumented member: ${member}`);
      return body;
    };
    const { key } = await ask("Key", "/keys", { method: "POST", body: JSON.stringify({ name: "live" }) });
    const send = async (path, key, body) => {
      const headers = key && { Authorization: `Bearer ${key}` };
      const answer = await fetch(`http://127.0.0.1:${gateway.port}${path}`, { method: "POST", body, headers });
      assert.equal(answer.status, 200, path);
      const received = await answer.json();
      assert.equal(faults("Received", received, "openapi"), "", JSON.stringify(received));
      return received.result;
    };
    const change = JSON.stringify({ changes: [{ bug: 4 }, { bug: "no" }] });
    assert.equal(await send("/hooks/plain", key, change), "partly");
    assert.equal(await send("/public/webhook/plain", key, JSON.stringify({ changes: [{ bug: 5 }] })), "ok");
    assert.equal(await send("/hooks/plain", undefined, change), "error");
    assert.equal(await send("/hooks/nobody", key, change), "error");
    await ask("Overview", "/overview");
    await ask("Sources", "/sources");
    await ask("Checks", "/sources/plain/test", { method: "POST" });
    await ask("Requests", "/requests?state=quarantined");
    await ask("DeadLetters", "/dead-letters");
    let way;
    do way = await ask("Way", "/bugs/5");
    while (way.steps[0].cursor === null);
    assert.equal(way.steps[0].state, "completed");
    await ask("Refusal", "/bugs/x");
  });

  await context.test("every path that is documented is there", async () => {
    for (const [path, { servers, ...methods }] of Object.entries(openapi.paths)) {
      // Those of the API need a token; hooks/tests/api asks them all.
      if (path.includes("{") || path.startsWith("/api/")) continue;
      const port = servers ? gateway.admin : gateway.port;
      for (const method of Object.keys(methods)) {
        const form = method === "post" && { body: new URLSearchParams({ bugs: "1" }), headers: { "Last-Event-ID": "unknown" } };
        const query = method === "get" && /sse|changes/.test(path) ? "?bugs=1" : "";
        const abort = new AbortController();
        const answer = await fetch(`http://127.0.0.1:${port}${path}${query}`, { method, signal: abort.signal, ...form });
        abort.abort();
        const { responses } = methods[method];
        const good = Object.keys(responses).find((status) => status.startsWith("2"));
        assert.equal(answer.status, Number(good), `${method} ${path}`);
        const kind = answer.headers.get("content-type").split(";")[0];
        assert.ok(kind in responses[good].content, `${method} ${path}: ${kind}`);
      }
    }
  });

  await context.test("going away", async () => {
    const client = new Client(gateway.url);
    await client.opened;
    await client.ask({ command: "hello" });
    await gateway.stop();
    while ((await client.next()) !== "goaway");
    assert.equal(await client.closed, 1012);
  });

  // Notices of a gap, and of a feed on which nothing can arrive, need a gateway that loses its broker: see tests/it.
  const sent = messagesOf("send").map(nameOf);
  assert.deepEqual([...seen].sort(), sent.filter((name) => name !== "gap" && name !== "feedState").sort());
});

function nameOf(kind) {
  return Object.keys(asyncapi.components.messages).find((name) => asyncapi.components.messages[name] === kind);
}
