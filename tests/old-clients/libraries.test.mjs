// Unmodified old libraries against the real gateway, asking in the forms of the clients of their time.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Gateway, binary } from "../../clients/js/test/support.mjs";
import { hybi8, libraries } from "./libraries.mjs";

const missing = !binary && "no gateway: set BUGFEED_TEST_BIN, or run cargo build";
if (missing && process.env.BUGFEED_TEST_REQUIRE) throw new Error(missing);

// Pings often, and soon ends a connection that does not answer them.
process.env.BUGFEED_PING_INTERVAL_MS = "100";
process.env.BUGFEED_IDLE_TIMEOUT_MS = "1000";

describe("old libraries", { concurrency: true, skip: missing, timeout: 120_000 }, () => {
  for (const [name, connect] of Object.entries(libraries)) {
    test(name, async () => {
      const gateway = await Gateway.start();
      try {
        await asked(gateway, connect);
        await quiet(gateway, connect);
      } finally {
        await gateway.end();
      }
    });
  }
});

test("libraries told to speak the drafts of 2011", { skip: missing, timeout: 60_000 }, async () => {
  const gateway = await Gateway.start();
  try {
    for (const connect of Object.values(hybi8)) await asked(gateway, connect);
  } finally {
    await gateway.end();
  }
});

/** What the example page, BzDeck and Autolander ask. */
async function asked(gateway, connect) {
  const client = await connect(gateway.url);
  assert.match((await client.ask('{"command": "version"}')).version, /^\d/);
  assert.deepEqual((await client.ask('{"command": "subscriptions"}')).bugs, []);
  for (const [command, bugs] of [
    [{ command: "subscribe", bugs: [1234, 5678], since: "" }, [1234, 5678]],
    [{ command: "subscribe", bugs: [1] }, [1, 1234, 5678]],
    [{ command: "unsubscribe", bugs: "1234" }, [1, 5678]],
    [{ command: "unsubscribe", bugs: [5678] }, [1]],
  ]) {
    const want = { command: command.command, result: "ok", bugs };
    assert.deepEqual(await client.ask(JSON.stringify(command)), want);
  }
  gateway.touch(1, 1234);
  const { when, ...update } = await client.next();
  assert.deepEqual(update, { command: "update", bug: 1 });

  // A mistake costs a reply; the connection goes on.
  assert.equal((await client.ask("[object Object]")).result, "error");

  // The largest subscription: messages with each way of writing a length.
  const bugs = Array.from({ length: 10_000 }, (_, index) => 1_000_000 + index);
  assert.deepEqual((await client.ask(JSON.stringify({ command: "unsubscribe", bugs: [1] }))).bugs, []);
  assert.deepEqual((await client.ask(JSON.stringify({ command: "subscribe", bugs }))).bugs, bugs);

  // A date that it was sent, as the next connection's since.
  client.close();
  await client.closed;
  const next = await connect(gateway.url);
  assert.equal((await next.ask(JSON.stringify({ command: "subscribe", bugs: [1], since: when }))).result, "ok");
  // A change with an earlier date that came after this second began is sent, too: it may have been committed late.
  let caughtUp = await next.next();
  while (caughtUp.when < when) caughtUp = await next.next();
  assert.deepEqual(caughtUp, { command: "update", bug: 1, when });
  next.close();
  assert.deepEqual([client.errors, next.errors], [[], []]);
}

/** Quiet for longer than a client may be that answers no pings; then the gateway goes away. */
async function quiet(gateway, connect) {
  const client = await connect(gateway.url);
  await client.ask('{"command": "subscribe", "bugs": [7]}');
  await new Promise((resolve) => setTimeout(resolve, 2000));
  gateway.touch(7);
  assert.equal((await client.next()).bug, 7);
  assert.deepEqual(client.errors, []);
  await gateway.stop();
  assert.equal(await client.closed, 1001);
  // An error to which nobody listens ends a program.
  assert.deepEqual(client.errors, []);
}
