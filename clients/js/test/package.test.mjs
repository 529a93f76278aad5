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

/** What each module may weigh, minified. Only the first one is always loaded; the others where there is reason to. */
const BUDGETS = {
  "bugfeed.js": 7500,
  "client-queue.js": 2400,
  "client-token.js": 1200,
  "client-fallback.js": 7800,
  "client-shared.js": 4700,
};

test("small: 7.5 kB minified, and more only where it is needed; without dependencies", unless(esbuild), async () => {
  for (const [name, most] of Object.entries(BUDGETS)) {
    const source = readFileSync(new URL(name, folder), "utf8");
    const { code } = await esbuild.transform(source, { minify: true, format: "esm", target: "es2022" });
    assert.ok(code.length <= most, `${name}: ${code.length} bytes`);
    // Of each other, they name only what lies beside them, under the names by which the gateway serves them.
    const named = [...code.matchAll(/\bimport(?:\{[^}]*\}from)?\(?"(.*?)"/g)].map(([, path]) => path);
    for (const path of named) assert.match(path, /^\.\/client-(queue|token|fallback|shared)\.js$/);
    if (name === "bugfeed.js") assert.doesNotMatch(source, /^import/m);
  }
});

test("a bundler makes a file of each module, or one of all", unless(esbuild), async () => {
  const options = { entryPoints: [fileURLToPath(new URL("bugfeed.js", folder))], bundle: true, write: false };
  const build = (more) => esbuild.build({ ...options, format: "esm", outdir: "/", ...more });
  const files = async (more) => (await build(more)).outputFiles.map(({ path, text }) => ({ path, text }));
  const [entry, ...others] = await files({ splitting: true });
  // Those that the entry names, one that these name, and perhaps what they share.
  const marks = [/text\/event-stream/, /BroadcastChannel/, /has a reader already/, /a token is letters/];
  for (const mark of marks) {
    assert.doesNotMatch(entry.text, mark);
    assert.equal(others.filter(({ text }) => mark.test(text)).length, 1, mark);
  }
  const [whole, ...more] = await files({});
  assert.deepEqual(more, []);
  for (const mark of marks) assert.match(whole.text, mark);
});

test("the types fit a page and a bot", unless(typescript), () => {
  const names = ["bugfeed.d.ts", "client-fallback.d.ts", "client-shared.d.ts", "files.d.ts", "test/types.ts"];
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
  const modules = ["bugfeed", "client-fallback", "client-shared", "files"].flatMap((name) => [`${name}.d.ts`, `${name}.js`]);
  assert.deepEqual(names, ["README.md", ...modules, "client-queue.js", "client-token.js", "package.json"].sort());
});

test("each module is found by its name, with its types beside it", async () => {
  const { exports } = JSON.parse(readFileSync(new URL("package.json", folder), "utf8"));
  // A package may import itself by its name.
  const { Bugfeed, webSocket } = await import("@bugfeed/client");
  const { eventStream, longPoll } = await import("@bugfeed/client/fallback");
  const { shared } = await import("@bugfeed/client/shared");
  const { files } = await import("@bugfeed/client/files");
  for (const made of [Bugfeed, webSocket, eventStream, longPoll, shared, files.getItem, files.setItem])
    assert.equal(typeof made, "function");
  for (const { types, default: module } of Object.values(exports))
    assert.equal(types, module.replace(".js", ".d.ts"));
});
