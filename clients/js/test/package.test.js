import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
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
    for (const needed of ["package.json", "README.md", "LICENSE"]) assert.ok(names.includes(needed), needed);
    assert.deepEqual(names.filter((name) => /(^|\/)(test|test-full|node_modules)\//.test(name) || name === "tsconfig.json"), []);
  });

  test("Every entry and its types exist.", () => {
    for (const entry of Object.values(manifest.exports)) {
      for (const path of typeof entry === "string" ? [entry] : Object.values(entry)) assert.ok(existsSync(new URL(`../${path}`, import.meta.url)), path);
    }
  });

  test("Nothing is needed at run time, and nothing has side effects.", () => {
    assert.equal(manifest.dependencies, undefined);
    assert.equal(manifest.sideEffects, false);
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
    for (const name of ["session.js", "record.js", "messages.js", "backoff.js"]) {
      const code = readFileSync(new URL(`../${name}`, import.meta.url), "utf8").replaceAll(/\/\*[^]*?\*\/|\/\/.*$/gm, "");
      assert.doesNotMatch(code, /\b(window\.|document|WebSocket|setTimeout|Date\b|performance|Math\.random|navigator|fetch)\b/, name);
    }
  });
});
