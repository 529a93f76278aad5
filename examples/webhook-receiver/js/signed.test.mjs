// What bugfeed signs is verified by the library of standardwebhooks.com, and what that signs is taken by bugfeed: the
// requests of hooks/golden/deliver/signed.json.
//     npm install && node --test
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";
import { Webhook } from "standardwebhooks";

const golden = new URL("../../../hooks/golden/deliver/signed.json", import.meta.url);
const { requests, calls } = JSON.parse(readFileSync(golden, "utf8"));
const at = (seconds) => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["Date"], now: seconds * 1000 });
};

test("each request is verified, by each secret that signed it", () => {
  assert.ok(requests.length >= 12, `${requests.length}`);
  for (const { name, secrets, headers, body } of requests) {
    for (const secret of secrets) {
      at(Number(headers["webhook-timestamp"]));
      assert.deepEqual(new Webhook(secret).verify(body, headers), JSON.parse(body), name);
    }
  }
});

test("nothing else is", () => {
  const [{ secrets, headers, body }] = requests;
  const sent = Number(headers["webhook-timestamp"]);
  const webhook = new Webhook(secrets[0]);
  for (const seconds of [-300, 300]) {
    at(sent + seconds);
    webhook.verify(body, headers);
  }
  for (const seconds of [-301, 301]) {
    at(sent + seconds);
    assert.throws(() => webhook.verify(body, headers), /timestamp/i);
  }
  at(sent);
  const others = {
    "another body": [secrets[0], body.replace("1234", "1235"), headers],
    "another id": [secrets[0], body, { ...headers, "webhook-id": `${headers["webhook-id"]}0` }],
    "another time": [secrets[0], body, { ...headers, "webhook-timestamp": `${sent + 1}` }],
    "no signature": [secrets[0], body, { ...headers, "webhook-signature": "" }],
    "another secret": [`whsec_${Buffer.alloc(32, 9).toString("base64")}`, body, headers],
  };
  for (const [what, [secret, text, with_]] of Object.entries(others)) {
    assert.throws(() => new Webhook(secret).verify(text, with_), undefined, what);
  }
});

test("a receiver's own calls have the signature that bugfeed expects", () => {
  assert.equal(calls.length, 2);
  for (const { secret, method, target, headers } of calls) {
    const time = new Date(Number(headers["webhook-timestamp"]) * 1000);
    const signed = new Webhook(secret).sign(headers["webhook-id"], time, `${method} ${target}.`);
    assert.equal(signed, headers["webhook-signature"]);
  }
});
