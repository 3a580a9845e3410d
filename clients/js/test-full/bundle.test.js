/** Sizes, types and what is published: whatever needs the packages of `make js-full`. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const CORE = 'export { StreamClient, onFrames } from "./index.js";';
const LIMIT = 9 * 1024;

/** Bytes of what a page would load at once, minified and gzipped; with `whole`, also of what it loads only where it must. */
async function sizeOf(contents, { external = [], whole = false } = {}) {
  const { outputFiles, metafile } = await build({
    stdin: { contents, resolveDir: HERE }, bundle: true, splitting: true, minify: true, format: "esm", target: "es2022", write: false, metafile: true, outdir: HERE, external,
  });
  const sizes = new Map(outputFiles.map(({ path, contents: code }) => [relative(process.cwd(), path), gzipSync(code, { level: 9 }).length]));
  const wanted = new Set(Object.keys(metafile.outputs).filter((path) => path.endsWith("stdin.js")));
  for (const path of wanted) for (const { path: next, kind } of metafile.outputs[path]?.imports ?? []) if (whole || kind === "import-statement") wanted.add(next);
  return [...wanted].filter((path) => sizes.has(path)).reduce((sum, path) => sum + sizes.get(path), 0);
}

describe("size", () => {
  test("The core is at most 9 KB.", async (t) => {
    const core = await sizeOf(CORE);
    t.diagnostic(`core: ${core} bytes, with HTTP: ${await sizeOf(CORE, { whole: true })} bytes, everything: ${await sizeOf('export * from "./index.js";')} bytes`);
    assert.ok(core <= LIMIT, `${core} bytes`);
  });

  test("With what is loaded where no WebSocket gets through, it is at most 10.5 KB; so is everything at once.", async () => {
    for (const size of [await sizeOf(CORE, { whole: true }), await sizeOf('export * from "./index.js";')]) assert.ok(size <= LIMIT + 1536, `${size} bytes`);
  });

  test("What is not used is left out: the back-off alone is a few hundred bytes.", async () => {
    assert.ok(await sizeOf('export { reconnectDelay } from "./index.js";') < 400);
  });

  test("The hook adds no second React.", async () => {
    assert.ok(await sizeOf('export * from "./react.js";', { external: ["react"] }) <= LIMIT + 2048);
  });
});

describe("the renderer", () => {
  test("Bundled, it loads each language by itself, and none of them before it is needed.", async () => {
    const made = mkdtempSync(join(tmpdir(), "bundle-"));
    try {
      const { metafile } = await build({
        stdin: { contents: 'export * from "./render/index.js";', resolveDir: HERE }, bundle: true, splitting: true, minify: true, format: "esm", metafile: true, outdir: made,
      });
      const outputs = Object.values(metafile.outputs);
      const vendored = new Set(Object.entries(metafile.outputs).filter(([, { entryPoint }]) => entryPoint?.includes("vendor/highlight/")).map(([path]) => path));
      assert.equal(vendored.size, readdirSync(join(HERE, "vendor/highlight/languages")).length + 1);
      assert.ok(outputs.flatMap(({ imports }) => imports).filter(({ path }) => vendored.has(path)).every(({ kind }) => kind === "dynamic-import"));
    } finally {
      rmSync(made, { recursive: true });
    }
  });
});

describe("types", () => {
  test("The sources agree with their types, and the declarations are those of the sources.", () => {
    const made = mkdtempSync(join(tmpdir(), "types-"));
    try {
      const tsc = fileURLToPath(new URL("../../node_modules/.bin/tsc", import.meta.url));
      execFileSync(tsc, ["--project", join(HERE, "tsconfig.json"), "--outDir", made], { encoding: "utf8" });
      const names = readdirSync(made).sort();
      assert.deepEqual(readdirSync(join(HERE, "types")).sort(), names, "run `npm run types`");
      for (const name of names) assert.equal(readFileSync(join(HERE, "types", name), "utf8"), readFileSync(join(made, name), "utf8"), name);
    } finally {
      rmSync(made, { recursive: true });
    }
  });
});
