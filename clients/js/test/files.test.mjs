// Cursors in files: what a bot finds when it starts again, whatever happened to the file meanwhile.
import assert from "node:assert/strict";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { Bugfeed } from "../bugfeed.js";
import { files } from "../files.js";
import { settled } from "./support.mjs";

let dir;
let file;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "bugfeed-files-"));
  file = join(dir, "bot.cursor");
});
afterEach(() => rmSync(dir, { recursive: true }));

test("a file that is not there is a fresh start; what is stored is found again", () => {
  assert.equal(files.getItem(file), null);
  for (const cursor of ["9f86d081884c7d65.42", "9f86d081884c7d65.43", "since:2014-04-03T21:13:45.25", "unknown"]) {
    files.setItem(file, cursor);
    assert.equal(files.getItem(file), cursor);
    assert.deepEqual(readdirSync(dir), ["bot.cursor"]);
  }
});

test("a line that was written by hand, or by the client for Python, is a cursor", () => {
  writeFileSync(file, "9f86d081884c7d65.42\r\n");
  assert.equal(files.getItem(file), "9f86d081884c7d65.42");
});

test("a file that was emptied or damaged is no fresh start, but what no gateway made", () => {
  const damages = ["", "\n", " \n\n", "\0".repeat(21), "E.4\0\0", "\x1b[0m", "9f86\nd081", "x".repeat(300_000)];
  for (const content of [...damages, Buffer.from([0x39, 0xff, 0xfe]), "é"]) {
    writeFileSync(file, content);
    assert.equal(files.getItem(file), "damaged", JSON.stringify(content.slice(0, 30)));
  }
});

test("what cannot be read or written is thrown, with the path", () => {
  mkdirSync(file);
  const about = { message: /bot\.cursor/ };
  assert.throws(() => files.getItem(file), { code: "EISDIR" });
  assert.throws(() => files.setItem(file, "E.1"), about);
  assert.throws(() => files.setItem(join(dir, "nowhere", "bot.cursor"), "E.1"), { code: "ENOENT", ...about });
  assert.throws(() => new Bugfeed("ws://gateway.test/", { storage: files, key: file, transport() {} }), {
    code: "EISDIR",
  });
});

test("a file that may not be read is no fresh start", { skip: process.getuid?.() === 0 && "root may" }, () => {
  writeFileSync(file, "E.1");
  chmodSync(file, 0);
  assert.throws(() => files.getItem(file), { code: "EACCES", message: /bot\.cursor/ });
});

test("a bot that dies while it writes finds the old cursor, and writes the next one", () => {
  files.setItem(file, "E.1");
  writeFileSync(`${file}.new`, "E.");
  assert.equal(files.getItem(file), "E.1");
  files.setItem(file, "E.2");
  assert.equal(files.getItem(file), "E.2");
  assert.ok(!existsSync(`${file}.new`));
});

test("the file is never written where it lies: who has it open sees the old cursor, whole", () => {
  files.setItem(file, "E.1");
  const reader = openSync(file);
  files.setItem(file, "E.2");
  assert.equal(readFileSync(reader, "utf8"), "E.1");
  closeSync(reader);
});

test("a feed resumes from its file, and keeps in it what was dealt with", async (context) => {
  const sent = [];
  const links = [];
  const transport = (url, on) => {
    links.push(on);
    return { send: (command) => sent.push(command), close() {} };
  };
  const start = async () => {
    const feed = new Bugfeed("ws://gateway.test/", { bugs: [1], storage: files, key: file, transport });
    // Also when the test fails: a feed goes on for ever.
    context.after(feed.close);
    await settled();
    const on = links.at(-1);
    const say = (message) => on.message(JSON.stringify(message));
    on.open();
    say({ command: "hello", result: "ok", heartbeat: 30, cursor: "E.1" });
    return { feed, say, cursor: sent.at(-1).cursor };
  };

  const first = await start();
  assert.equal(first.cursor, undefined);
  first.feed.addEventListener("change", () => {});
  first.say({ command: "subscribe", result: "ok", count: 1, cursor: "E.1" });
  first.say({ command: "update", bug: 1, when: "2014-04-03T21:13:45", cursor: "E.2" });
  first.feed.close();
  assert.equal(readFileSync(file, "utf8"), "E.2");

  const second = await start();
  assert.equal(second.cursor, "E.2");
  // The folder is gone: the feed says so, and goes on.
  rmSync(dir, { recursive: true });
  const errors = [];
  second.feed.addEventListener("error", ({ detail }) => errors.push(detail));
  second.say({ command: "subscribe", result: "ok", count: 1, replay: "complete", cursor: "E.3" });
  assert.match(errors[0].message, /^storing failed: Error: ENOENT.*bot\.cursor/);
  second.feed.close();
  mkdirSync(dir);

  writeFileSync(file, "");
  const third = await start();
  assert.equal(third.cursor, "damaged");
});
