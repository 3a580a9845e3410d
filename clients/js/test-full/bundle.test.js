/** Sizes, types and what is published: whatever needs the packages of `make js-full`. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const CORE = 'export { StreamClient, onFrames } from "./index.js";';
const LIMIT = 9000;

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

describe("installed", () => {
  const modules = fileURLToPath(new URL("../../node_modules", import.meta.url));
  const manifest = JSON.parse(readFileSync(join(HERE, "package.json"), "utf8"));
  const entries = Object.keys(manifest.exports).map((entry) => entry.replace(/^\./, "wsstream"));
  const made = mkdtempSync(join(tmpdir(), "installed-"));
  after(() => rmSync(made, { recursive: true }));

  test("In an empty project every entry is found by node, by a bundler and by the types of both ways to resolve.", async () => {
    const run = (words, ...more) => execFileSync(words, more, { cwd: made, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
    const [{ filename }] = JSON.parse(run("npm", "pack", HERE, "--json", "--offline"));
    writeFileSync(join(made, "package.json"), '{"private":true,"type":"module"}');
    run("npm", "install", `./${filename}`, "--offline", "--no-audit", "--no-fund");
    for (const name of ["react", "@types"]) symlinkSync(join(modules, name), join(made, "node_modules", name));
    const scripts = entries.filter((entry) => !/\.\w+$/.test(entry));
    assert.equal(scripts.length, 6);
    writeFileSync(join(made, "each.js"), scripts.map((entry, at) => `export * as e${at} from "${entry}";`).join("\n"));
    assert.equal(Object.keys(await import(join(made, "each.js"))).length, 6);
    writeFileSync(join(made, "all.js"), `import "wsstream/render/style.css";\nexport * from "./each.js";`);
    const { outputFiles } = await build({ entryPoints: [join(made, "all.js")], bundle: true, splitting: true, format: "esm", write: false, outdir: made });
    assert.deepEqual(outputFiles.map(({ path }) => relative(made, path)).filter((path) => /^all\./.test(path)).sort(), ["all.css", "all.js"]);
    writeFileSync(join(made, "use.ts"), `
      ${scripts.map((entry, at) => `import * as e${at} from "${entry}"; void e${at};`).join("\n")}
      import { StreamClient } from "wsstream";
      import { useChatStream } from "wsstream/react";
      const stream = new StreamClient("wss://example.org/ws", { token: async () => "t" }).chat("hi");
      const cancelled: boolean = stream.cancel();
      const named: string | undefined = useChatStream({ url: "x" }).messages[0]?.toolCalls?.[0]?.name;
      void [cancelled, named];
      // @ts-expect-error a number is no prompt
      stream.info && new StreamClient("x").chat(5);
    `);
    for (const [resolution, module] of [["nodenext", "nodenext"], ["bundler", "esnext"]]) {
      run(join(modules, ".bin/tsc"), "--noEmit", "--strict", "--target", "es2022", "--lib", "es2023,dom,dom.iterable", "--moduleResolution", resolution, "--module", module, "--types", "react", "use.ts");
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
