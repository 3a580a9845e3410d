import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const sources = readdirSync(HERE).filter((name) => name.endsWith(".js"));

describe("package", () => {
  const without = spawnSync("npm", ["--version"]).error ? "no npm here" : false;
  test("What would be published is the modules, their types, readme and licence, and no test.", { skip: without }, () => {
    const [{ files }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--offline"], { cwd: HERE, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
    const names = files.map(({ path }) => path);
    for (const source of sources) assert.ok(names.includes(source), source);
    for (const source of sources) assert.ok(names.includes(`types/${source.replace(".js", ".d.ts")}`), `types of ${source}`);
    for (const needed of ["package.json", "README.md", "LICENSE", "vendor/README.md", "vendor/marked/LICENSE", "vendor/highlight/LICENSE"]) assert.ok(names.includes(needed), needed);
    assert.deepEqual(names.filter((name) => /(^|\/)(test|test-full|node_modules)\//.test(name) || /tsconfig|\.sh$/.test(name)), []);
  });

  test("Who has installed it imports the client, the renderer and what that is made of.", { skip: without }, () => {
    const folder = mkdtempSync(join(tmpdir(), "installed-"));
    const npm = (...words) => execFileSync("npm", [...words, "--offline", "--no-audit", "--no-fund"], { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
    try {
      const [{ filename }] = JSON.parse(npm("pack", HERE, "--json"));
      writeFileSync(join(folder, "package.json"), '{"private":true,"type":"module"}');
      npm("install", `./${filename}`);
      // The hook needs a React, which is not here; js-full tries it with one.
      const entries = Object.keys(manifest.exports).filter((entry) => !/react|\.\w+$/.test(entry)).map((entry) => entry.replace(/^\./, "wsstream"));
      writeFileSync(join(folder, "each.js"), `for (const entry of ${JSON.stringify(entries)}) if (!Object.keys(await import(entry)).length) throw new Error(entry);`);
      execFileSync("node", ["each.js"], { cwd: folder });
      assert.equal(entries.length, 5);
      writeFileSync(join(folder, "look.js"), `
        import { StreamClient } from "wsstream";
        import { Renderer, safeLink } from "wsstream/render";
        import { sse } from "wsstream/sse";
        console.log(new StreamClient("ws://page/ws").state, typeof Renderer, safeLink("https://a.b/"), safeLink("javascript:x"), sse.label, import.meta.resolve("wsstream/render/style.css").slice(-25));
      `);
      assert.equal(execFileSync("node", ["look.js"], { cwd: folder, encoding: "utf8" }), "idle function https://a.b/ null sse wsstream/render/style.css\n");
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("What the renderer gives and what its types say are the same names.", async () => {
    const types = readFileSync(new URL("../render/index.d.ts", import.meta.url), "utf8");
    const declared = [...types.matchAll(/^export declare (?:class|function) (\w+)/gm)].map(([, name]) => name);
    assert.deepEqual(declared.sort(), Object.keys(await import("../render/index.js")).sort());
  });

  test("Every language that is vendored can be loaded, by an address that bundlers see.", () => {
    const code = readFileSync(new URL("../render/highlight.js", import.meta.url), "utf8");
    const named = [...code.matchAll(/import\("\.\.\/vendor\/highlight\/languages\/(.+?)"\)/g)].map(([, name]) => name);
    assert.deepEqual(named.sort(), readdirSync(new URL("../vendor/highlight/languages/", import.meta.url)).sort());
  });

  test("Every entry and its types exist.", () => {
    for (const entry of Object.values(manifest.exports)) {
      for (const path of typeof entry === "string" ? [entry] : Object.values(entry)) assert.ok(existsSync(new URL(`../${path}`, import.meta.url)), path);
    }
  });

  test("Nothing is needed at run time, and nothing but a stylesheet has side effects.", () => {
    assert.equal(manifest.dependencies, undefined);
    assert.deepEqual(manifest.sideEffects, ["./render/style.css"]);
    assert.deepEqual(Object.keys(manifest.peerDependencies), ["react"]);
    assert.equal(manifest.license, "Apache-2.0");
  });

  test("The version is the server's.", () => {
    const server = readFileSync(new URL("../../../wsstream/__init__.py", import.meta.url), "utf8");
    assert.equal(manifest.version, server.match(/__version__ = "([^"]+)"/)[1]);
  });

  test("Only the hook knows React, and the session knows neither clock, dice, socket nor page.", () => {
    for (const name of sources) {
      const text = readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
      const foreign = [...text.matchAll(/^import .* from "([^.][^"]*)"/gm)].map(([, from]) => from);
      assert.deepEqual(foreign, name === "react.js" ? ["react"] : [], name);
    }
    for (const name of ["session.js", "streams.js", "record.js", "flow.js", "outbox.js", "questions.js", "heartbeat.js", "renewal.js", "messages.js", "backoff.js"]) {
      const code = readFileSync(new URL(`../${name}`, import.meta.url), "utf8").replaceAll(/\/\*[^]*?\*\/|\/\/.*$/gm, "");
      assert.doesNotMatch(code, /\b(window\.|document|WebSocket|setTimeout|Date\b|performance|Math\.random|navigator|fetch)\b/, name);
    }
  });
});
