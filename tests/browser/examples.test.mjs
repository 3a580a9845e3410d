/** The example applications, as somebody would try them. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, readFileSync, rmSync } from "node:fs";
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

/** The first example in JavaScript of a document. @param {string} path */
const printed = (path) => /^```js\n([^]*?)^```/m.exec(readFileSync(join(ROOT, path), "utf8"))[1];

describe("what is printed", () => {
  const here = site();

  /** A page of nothing but this module, where `wsstream` is what the server has of it. */
  async function run(code, body) {
    const imports = { wsstream: "/static/js/wsstream.js", "wsstream/render": "/static/js/render/index.js" };
    const page = await here.fresh();
    await page.route("**/try.html", (route) => route.fulfill({
      contentType: "text/html",
      body: `<!doctype html><title>try</title><link rel="icon" href="data:,"><script type="importmap">${JSON.stringify({ imports })}</script>${body}<script type="module">${code}</script>`,
    }));
    await page.goto(`${here.server.url}try.html`);
    return page;
  }

  test("The client's readme streams an answer into a page, and remembers its session.", async () => {
    const code = printed("clients/js/README.md");
    assert.match(code, /wss:\/\/example\.org\/ws/);
    const page = await run(code.replace("wss://example.org/ws", here.server.url.replace("http", "ws") + "ws"), '<output id="output"></output>');
    await until(async () => (await page.locator("#output").textContent()).length > 400, 20_000);
    assert.match(await page.evaluate(() => sessionStorage.session), /^ses_/);
  });

  test("The renderer's example renders an answer, and acknowledges what is painted.", async () => {
    const before = `import { StreamClient } from "wsstream";
      const client = new StreamClient(location.origin.replace("http", "ws") + "/ws");
      client.connect();
      const element = document.getElementById("element");
      const stream = window.stream = client.chat("Show me code for a stream reader", { model: "demo" });\n`;
    const page = await run(before + printed("docs/browser.md"), '<div id="element" class="answer"></div>');
    await until(() => page.evaluate(() => window.stream?.outcome?.ok && window.stream.info.acked === window.stream.lastChunkId), 20_000);
    await until(async () => (await page.locator("#element .code").count()) === 2);
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
