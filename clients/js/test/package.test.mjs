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

test("6 kB minified, without dependencies", unless(esbuild), async () => {
  const source = readFileSync(new URL("bugfeed.js", folder), "utf8");
  const { code } = await esbuild.transform(source, { minify: true, format: "esm", target: "es2022" });
  assert.ok(code.length <= 6144, `${code.length} bytes`);
  assert.doesNotMatch(source, /^import|\brequire\(|import\("(?!\.\/)/m);
});

test("the types fit a page and a bot", unless(typescript), () => {
  const files = ["bugfeed.d.ts", "test/types.ts"].map((name) => fileURLToPath(new URL(name, folder)));
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

test("the package holds the module, its types, and what npm adds", () => {
  const [{ files }] = JSON.parse(
    execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: folder, stdio: ["ignore", "pipe", "ignore"] }),
  );
  const names = files.map(({ path }) => path).sort();
  assert.deepEqual(names, ["README.md", "bugfeed.d.ts", "bugfeed.js", "package.json"]);
});
