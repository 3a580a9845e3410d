/** The hook's tests once more, in React 18: a copy of the client beside the older React, since both are found by their place. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const FOLDER = fileURLToPath(new URL("../../node_modules/.react18/", import.meta.url));
const VERSION = "18.3.1";

/** @returns {boolean} whether it is there */
function install() {
  if (existsSync(join(FOLDER, "node_modules/react-dom"))) return true;
  mkdirSync(FOLDER, { recursive: true });
  const words = ["install", "--prefix", FOLDER, "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--fetch-retries=1", `react@${VERSION}`, `react-dom@${VERSION}`];
  return spawnSync("npm", words, { stdio: "ignore" }).status === 0;
}

describe("React 18", () => {
  const without = install() ? false : "React 18 is not to be had here";
  test("The hook keeps its promises.", { skip: without }, () => {
    const copy = join(FOLDER, "js");
    rmSync(copy, { recursive: true, force: true });
    cpSync(HERE, copy, { recursive: true, filter: (path) => !/\/(vendor|render|types|test)$/.test(path) });
    const { NODE_TEST_CONTEXT, ...env } = process.env;
    const { status, stdout } = spawnSync("node", ["--test", "--test-reporter=tap", "react.test.js"], { cwd: join(copy, "test-full"), encoding: "utf8", env: { ...env, REACT: VERSION } });
    assert.equal(status, 0, stdout);
    assert.match(stdout, /# pass 1[0-9]/);
  });
});
