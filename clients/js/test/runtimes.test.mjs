// The versions of Node that the README names, beside the one that runs this: what meets their WebSocket, their fetch and
// their events, once more with each. To have them: npm ci --prefix test/runtimes
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const folder = fileURLToPath(new URL("..", import.meta.url));
const suites = ["choice", "client", "fallback", "gateway", "listen", "loop", "shared", "sockets", "token"];
const files = suites.map((name) => `test/${name}.test.mjs`);

const run = async (node) => {
  const { NODE_TEST_CONTEXT, ...env } = process.env; // Or it would take part in this run.
  const args = ["--test", "--test-reporter=tap", "--test-timeout=300000", ...files];
  const options = { cwd: folder, env, maxBuffer: 2 ** 26 };
  const { stdout, code } = await promisify(execFile)(node, args, options).catch((failed) => failed);
  const failures = stdout.split("\n").filter((line) => /^\s*not ok/.test(line));
  assert.deepEqual(failures, [], stdout);
  assert.equal(code, undefined, stdout);
  assert.match(stdout, /^# pass [1-9]/m);
};

test("other versions of Node", { concurrency: true, timeout: 600_000 }, (context) =>
  Promise.all(
    [22, 24].map((version) => {
      const node = `${folder}test/runtimes/node_modules/node${version}-${process.platform}-${process.arch}/bin/node`;
      const skip = !existsSync(node) && "not installed: npm ci --prefix test/runtimes";
      return context.test(`Node ${version}`, { skip }, () => run(node));
    }),
  ),
);
