// What is published: small, typed, and nothing else. Run: npm ci && npm test
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const folder = new URL("../", import.meta.url);
const load = (name) =>
  import(name).then(
    (module) => module.default ?? module,
    () => null,
  );
const [esbuild, typescript] = await Promise.all([load("esbuild"), load("typescript")]);
const unless = (module) => ({ skip: !module && "run npm ci" });

test("6 kB minified, and 7 where they are needed, without dependencies", unless(esbuild), async () => {
  for (const [name, most] of [
    ["bugfeed.js", 6000],
    ["client-fallback.js", 7000],
  ]) {
    const source = readFileSync(new URL(name, folder), "utf8");
    const { code } = await esbuild.transform(source, { minify: true, format: "esm", target: "es2022" });
    assert.ok(code.length <= most, `${name}: ${code.length} bytes`);
    assert.doesNotMatch(source, /^import|\brequire\(|import\("(?!\.\/)/m);
  }
});

test("a bundler makes two files of it, or one", unless(esbuild), async () => {
  const options = { entryPoints: [fileURLToPath(new URL("bugfeed.js", folder))], bundle: true, write: false };
  const build = (more) => esbuild.build({ ...options, format: "esm", outdir: "/", ...more });
  const files = async (more) => (await build(more)).outputFiles;
  // The entry, what both share (nothing, here), and the other module, which the entry names.
  const [entry, other] = await files({ splitting: true });
  assert.ok(entry.text.includes(`import("./${other.path.slice(1)}")`), other.path);
  assert.match(other.text, /text\/event-stream/);
  const [whole, ...more] = await files({});
  assert.deepEqual(more, []);
  assert.match(whole.text, /text\/event-stream/);
});

test("the types fit a page and a bot", unless(typescript), () => {
  const names = ["bugfeed.d.ts", "client-fallback.d.ts", "files.d.ts", "test/types.ts"];
  const files = names.map((name) => fileURLToPath(new URL(name, folder)));
  const options = {
    strict: true,
    noEmit: true,
    exactOptionalPropertyTypes: true,
    target: typescript.ScriptTarget.ES2022,
    module: typescript.ModuleKind.NodeNext,
    moduleResolution: typescript.ModuleResolutionKind.NodeNext,
    lib: ["lib.es2023.d.ts", "lib.dom.d.ts"],
    types: [],
  };
  const found = typescript.getPreEmitDiagnostics(typescript.createProgram(files, options));
  assert.deepEqual(
    found.map(({ messageText, file, start }) => [file?.fileName, start, messageText]),
    [],
  );
});

test("the package holds the modules, their types, and what npm adds", () => {
  const [{ files }] = JSON.parse(
    execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: folder, stdio: ["ignore", "pipe", "ignore"] }),
  );
  const names = files.map(({ path }) => path).sort();
  const modules = ["bugfeed.d.ts", "bugfeed.js", "client-fallback.d.ts", "client-fallback.js", "files.d.ts", "files.js"];
  assert.deepEqual(names, ["README.md", ...modules, "package.json"]);
});

test("each module is found by its name, with its types beside it", async () => {
  const { exports } = JSON.parse(readFileSync(new URL("package.json", folder), "utf8"));
  // A package may import itself by its name.
  const { Bugfeed, webSocket } = await import("@bugfeed/client");
  const { eventStream, longPoll } = await import("@bugfeed/client/fallback");
  const { files } = await import("@bugfeed/client/files");
  for (const made of [Bugfeed, webSocket, eventStream, longPoll, files.getItem, files.setItem])
    assert.equal(typeof made, "function");
  for (const { types, default: module } of Object.values(exports))
    assert.equal(types, module.replace(".js", ".d.ts"));
});
