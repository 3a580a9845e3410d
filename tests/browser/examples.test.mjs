/** The example applications, as somebody would try them. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, test } from "node:test";
import { MODULES, site, until } from "./harness.mjs";
import { Cutter, freePort } from "./server.mjs";

const ROOT = new URL("../..", import.meta.url).pathname;

/** Asks, cuts the connection in the middle, and gives what stands there in the end. */
async function interrupted(page, cutter, { send, read, done }) {
  await send();
  await until(async () => (await read()).length > 150);
  assert.ok(cutter.cut() >= 1);
  await until(done, 20_000);
  return read();
}

describe("one file", () => {
  const here = site();

  test("It streams an answer, and a dropped connection costs no word of it.", async () => {
    const cutter = await new Cutter().listen(here.server.port);
    try {
      const page = await here.fresh({ connected: false }, `${cutter.url}examples/vanilla.html`);
      const send = () => page.click("#send");
      const read = () => page.locator("#answer").textContent();
      const done = async () => (await page.locator("#state").textContent()) === "stop";
      await send();
      await until(done, 20_000);
      const whole = await read();
      assert.ok(whole.length > 400);
      await page.locator("#answer").evaluate((node) => { node.textContent = ""; });
      assert.equal(await interrupted(page, cutter, { send, read, done }), whole);
    } finally { cutter.end(); }
  });
});

/** The React example in a folder of its own, with its packages. @returns {string|null} null where they are not to be had */
function installed() {
  const folder = join(MODULES, "react-example");
  const example = join(folder, "examples/react");
  for (const part of ["js", "examples/react"]) {
    rmSync(join(folder, part, part === "js" ? "" : "main.jsx"), { recursive: true, force: true });
    cpSync(join(ROOT, "clients", part), join(folder, part), { recursive: true, filter: (path) => !/node_modules|test/.test(path.slice(ROOT.length)) });
  }
  if (existsSync(join(example, "node_modules/vite"))) return example;
  const { status } = spawnSync("npm", ["install", "--no-audit", "--no-fund", "--no-package-lock", "--fetch-retries=1"], { cwd: example, stdio: "ignore" });
  return status === 0 ? example : null;
}

async function vite(example, target) {
  const port = await freePort();
  const child = spawn(join(example, "node_modules/.bin/vite"), ["--host", "127.0.0.1", "--port", String(port), "--strictPort"], {
    cwd: example, env: { ...process.env, WSSTREAM_URL: target.replace(/\/$/, "") }, stdio: ["ignore", "pipe", "ignore"],
  });
  for await (const line of createInterface(child.stdout)) if (line.includes("ready in")) break;
  child.stdout.resume();
  return { url: `http://127.0.0.1:${port}/`, end: () => child.kill() };
}

describe("React", () => {
  const here = site();
  const example = installed();

  test("It streams an answer, a dropped connection costs no word of it, and a reload brings it back.", { skip: example ? false : "its packages are not to be had here" }, async () => {
    const cutter = await new Cutter().listen(here.server.port);
    const { url, end } = await vite(example, cutter.url);
    try {
      const page = await here.fresh({ connected: false }, url);
      await until(async () => /connected/.test(await page.locator("[role=status]").textContent()), 20_000);
      const read = async () => (await page.locator("p").last().textContent()).replace(/^assistant /, "").trim();
      const done = async () => (await page.locator("form button").textContent()) === "Send";
      const said = await interrupted(page, cutter, { send: () => page.click("form button"), read, done });
      assert.match(said, /chunk_ack/);
      assert.match(said, /each at its own pace\.$/);
      await page.reload();
      await until(async () => (await page.locator("p").count()) === 3);
      assert.equal(await read(), said);
    } finally {
      end();
      cutter.end();
    }
  });
});
