// The documents are valid, and say what the golden files say.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import { Validator } from "@seriousme/openapi-schema-validator";
import Ajv from "ajv";
import { answers, asyncapi, conversations, faults, follow, forms, golden, isMessage, messagesOf, openapi, refs, schemaOf, undocumented } from "./documents.mjs";

const { messages } = asyncapi.components;

test("asyncapi.yaml is AsyncAPI 3.0", () => {
  const path = createRequire(import.meta.url).resolve("@asyncapi/specs/schemas/3.0.0.json");
  // The schema brings its own copy of the JSON Schema of schemas.
  const ajv = new Ajv({ strict: false, meta: false, validateSchema: false, validateFormats: false, allErrors: true });
  const validate = ajv.compile(JSON.parse(readFileSync(path, "utf8")));
  assert.ok(validate(asyncapi), ajv.errorsText(validate.errors));
});

test("openapi.yaml is OpenAPI 3.1", async () => {
  const { valid, errors } = await new Validator().validate(structuredClone(openapi));
  assert.ok(valid, JSON.stringify(errors, null, 1));
});

test("every reference leads somewhere, and nothing is left over", () => {
  for (const document of [asyncapi, openapi]) {
    for (const ref of refs(document)) assert.notEqual(follow(document, ref), undefined, ref);
    const used = new Set(refs(document));
    for (const [kind, parts] of Object.entries(document.components)) {
      // These are named, not referred to.
      if (kind === "securitySchemes") continue;
      for (const name of Object.keys(parts)) assert.ok(used.has(`#/components/${kind}/${name}`), `nobody uses ${kind}/${name}`);
    }
  }
});

test("every message is of some operation", () => {
  const { channels, operations } = asyncapi;
  const sent = Object.values(operations).flatMap(({ channel, messages, reply }) =>
    [...(messages ?? refs(follow(asyncapi, channel.$ref).messages).map(($ref) => ({ $ref }))), ...(reply?.messages ?? [])].map(
      ({ $ref }) => ($ref.startsWith("#/components/") ? $ref : follow(asyncapi, $ref).$ref),
    ),
  );
  for (const channel of Object.values(channels)) {
    for (const ref of refs(channel.messages)) assert.ok(sent.includes(ref), `no operation has ${ref}`);
  }
});

// A marker is no message of the protocol's, but the gateways' own.
const withoutGolden = ["marker"];

test("the examples are the golden files: every one, once, and each message has some", () => {
  const seen = [];
  for (const [name, { examples = [] }] of Object.entries(messages)) {
    assert.equal(examples.length === 0, withoutGolden.includes(name), `examples of ${name}`);
    for (const { name: file, payload } of examples) {
      assert.deepEqual(payload, golden.get(file), `${name} shows ${file}`);
      seen.push(file);
    }
  }
  assert.deepEqual(seen.sort(), [...golden.keys()].sort());
});

test("golden messages are of their schema, and of no other command's", () => {
  for (const message of Object.values(messages)) {
    for (const { name, payload } of message.examples ?? []) {
      assert.equal(faults(schemaOf(message), payload), "", name);
      assert.equal(faults(schemaOf(message), { ...payload, unknown: [1] }), "", `${name} with a member more`);
      for (const other of Object.values(messages)) {
        const same = other.examples?.some((example) => example.payload.command === payload.command);
        if (other === message || same || !schemaOf(other) || schemaOf(other) === "Refusal") continue;
        if ("payload" in payload && "payload" in other.examples[0].payload) continue;
        assert.notEqual(faults(schemaOf(other), payload), "", `${name} as ${other.title}`);
      }
    }
  }
});

/** Copies of a message, each with one member spoiled, and the name of that member. */
function* spoiled(message, path = []) {
  for (const [name, value] of Object.entries(message)) {
    yield [[...path, name].join("."), { ...message, [name]: [[]] }];
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      for (const [where, copy] of spoiled(value, [...path, name])) yield [where, { ...message, [name]: copy }];
    }
  }
}

test("no member of a golden message may be just anything", () => {
  for (const message of Object.values(messages)) {
    for (const { name, payload } of message.examples ?? []) {
      for (const [where, copy] of spoiled(payload)) assert.notEqual(faults(schemaOf(message), copy), "", `${name}: ${where}`);
    }
  }
});

test("members that a message always has are required", () => {
  const optional = { subscribe: ["since", "cursor"], subscribed: ["replay", "all"], bugList: ["all"], hello: ["heartbeat", "token"], welcome: ["expires"], goaway: ["reason"], foreign: ["_meta"],
    heartbeat: ["state"], gap: ["spread_ms"], change: ["tag", "after"], batch: ["tag", "after"], head: ["tag", "paused", "sent_us"] };
  for (const [kind, message] of Object.entries(messages)) {
    for (const { name, payload } of message.examples ?? []) {
      for (const member of Object.keys(payload)) {
        const { [member]: _, ...rest } = payload;
        const fault = faults(schemaOf(message), rest);
        assert.equal(fault === "", (optional[kind] ?? []).includes(member), `${name} without ${member}`);
      }
    }
  }
});

test("what clients may send is what the gateway takes", () => {
  // JavaScript reads these as 12 and 2^63 - 1; the gateway refuses them.
  const unseen = /\[(12\.0|9223372036854775808)\]/;
  for (const { send, gateway, original } of forms.messages) {
    const [reply] = gateway ?? original;
    let command;
    try {
      command = JSON.parse(send);
    } catch {
      assert.equal(reply.result, "error", send);
      continue;
    }
    if (!unseen.test(send)) assert.equal(isMessage("receive", command), reply.result === "ok", send);
    for (const message of gateway ?? original) assert.ok(isMessage("send", message), JSON.stringify(message));
  }
});

test("clients are tested with messages that the documents have", () => {
  // These are about what no gateway of today sends.
  const other = [
    "feed-in-heartbeats", "feed-notice", "feed-unknown-state", "gap-spread", "gap-spread-longest",
    "goaway-nonsense", "malformed-replies", "resume-unknown-verdict", "unknown",
  ];
  const odd = [];
  for (const [name, steps] of conversations) {
    for (const { send, receive } of steps) {
      if (receive) assert.ok(isMessage("receive", receive), `${name}: ${JSON.stringify(receive)}`);
      if (send && !isMessage("send", send)) odd.push(name);
    }
  }
  assert.deepEqual([...new Set(odd)].sort(), other);
});

test("what both documents have is the same", () => {
  for (const name of ["Bug", "When", "Cursor", "Verdict"]) {
    assert.deepEqual(openapi.components.schemas[name], asyncapi.components.schemas[name], name);
  }
  const { example } = openapi.paths["/sse"].get.responses[200].content["text/event-stream"];
  const data = [...example.matchAll(/^data: (.*)$/gm)].map(([, text]) => JSON.parse(text));
  assert.ok(data.length > 1);
  for (const message of data) assert.ok(messagesOf("send").some((known) => faults(schemaOf(known), message) === ""));
  const answer = openapi.paths["/changes"].get.responses[200].content["application/json"].example;
  assert.equal(faults("Answer", answer, "openapi"), "");
  for (const { content } of Object.values(openapi.components.responses)) {
    const { example, schema } = content?.["application/json"] ?? {};
    if (example) assert.equal(faults(schema.$ref.split("/").at(-1), example, "openapi"), "");
  }
});

test("what the API of hooks answers is documented", () => {
  for (const { method, path, query, body, status, answer } of answers) {
    const name = `${method} ${path} ${status}`;
    const operation = openapi.paths[path]?.[method];
    assert.ok(operation, name);
    const found = operation.responses[status];
    assert.ok(found, name);
    const { content } = found.$ref ? follow(openapi, found.$ref) : found;
    const { schema } = content["application/json"];
    assert.equal(faults(schema.$ref.split("/").at(-1), answer, "openapi"), "", name);
    assert.deepEqual(undocumented(schema, answer), [], name);
    const parameters = (operation.parameters ?? []).map((one) => (one.$ref ? follow(openapi, one.$ref) : one).name);
    for (const parameter of new URLSearchParams(query).keys()) assert.ok(parameters.includes(parameter), `${name}: ${parameter}`);
    if (body === null || status >= 400) continue;
    const sent = operation.requestBody.content["application/json"].schema;
    assert.equal(faults(sent.$ref.split("/").at(-1), body, "openapi"), "", name);
    assert.deepEqual(undocumented(sent, body), [], name);
  }
});

test("what receivers are answered is documented", () => {
  const { example } = openapi.paths["/endpoints/{id}/changes"].get.responses[200].content["application/json"];
  const goldenAnswer = (name) => {
    const text = readFileSync(new URL(`../../hooks/golden/deliver/${name}.txt`, import.meta.url), "utf8");
    return JSON.parse(text.split("\n")[1]);
  };
  for (const answer of [example, goldenAnswer("changes"), goldenAnswer("changes-gap")]) {
    assert.equal(faults("EndpointChanges", answer, "openapi"), "");
    assert.deepEqual(undocumented({ $ref: "#/components/schemas/EndpointChanges" }, answer), []);
  }
});

test("values at the edges", () => {
  for (const [schema, good, bad] of [
    ["Bug", [1, 2 ** 53], [0, -1, 1.5, "1", null]],
    ["When", ["1970-01-01T00:00:00", "2199-12-31T23:59:59.999999", "2014-04-03T21:13:45.5"], ["1969-12-31T23:59:59", "2200-01-01T00:00:00", "2014-04-03T21:13:45Z", "2014-04-03", "2014-04-03T21:13:45.", "2014-04-03T21:13:45.50", "2014-04-03T24:00:00", "2014-13-03T21:13:45"]],
    ["Cursor", ["E.0", "a_b-C9.18446744073709551615", "E.1.2", "E.1.00c0ffee"], ["", "E", "E.", ".1", "E.-1", "E.01", "E.1.", "E.1.AB", "E.1.2.3", "a b.1", `${"x".repeat(65)}.1`]],
  ]) {
    for (const value of good) assert.equal(faults(schema, value), "", `${schema} ${value}`);
    for (const value of bad) assert.notEqual(faults(schema, value), "", `${schema} ${value}`);
  }
});
