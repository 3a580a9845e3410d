/** A real Chromium for the tests, and what they all do with a page. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { after, afterEach, before } from "node:test";
import { Server } from "./server.mjs";
import { SHOTS } from "./until.mjs";

export { SHOTS, until, words } from "./until.mjs";

export const MODULES = process.env.WSSTREAM_BROWSER_MODULES ?? ".";
const require = createRequire(join(resolve(MODULES), "node_modules", "_"));
export const { chromium } = require("playwright-core");
export const axeSource = () => require("axe-core").source;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

export function launch(more = []) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: [...FLAGS, ...more] });
}

/** A browser and a server for a group of tests. None of the pages it opens may have a fault at the end of its test. */
export function site(...flags) {
  const here = { pages: [] };
  before(async () => { here.server = await new Server(...flags).start(); here.browser = await launch(); });
  afterEach(async () => {
    const pages = here.pages.splice(0);
    await Promise.all(pages.map((page) => page.context().close()));
    for (const { faults } of pages) assert.deepEqual(faults, []);
  });
  after(async () => { await here.browser?.close(); await here.server?.end(); });

  /** A page of a browser of its own, as it were. */
  here.fresh = async (options, url = here.server.url) => {
    const page = await visit(here.browser, url, options);
    here.pages.push(page);
    return page;
  };
  return here;
}

/** A page of a context of its own, that fails on whatever it logs as an error or asks of other hosts. */
export async function visit(browser, url, { connected, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: new URL(url).origin });
  return open(context, url, { connected });
}

export async function open(context, url, { connected = true } = {}) {
  const page = await context.newPage();
  const faults = [];
  await page.exposeBinding("violated", (_, what) => { faults.push(`the policy forbade ${what}`); });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sample }) => window.violated(`${violatedDirective}: ${blockedURI} ${sample}`));
  });
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error" && !/ERR_|net::|404|WebSocket/.test(message.text())) faults.push(message.text()); });
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== new URL(url).origin && protocol !== "data:") faults.push(`loaded ${request.url()}`);
  });
  await page.goto(url);
  if (connected) await page.locator('#connection[data-state="connected"]').waitFor();
  return Object.assign(page, { faults });
}

export async function ask(page, text, model) {
  if (model) await page.fill("#model", model);
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
}

export const answer = (page) => page.locator(".conversation:not([hidden]) .message:not(.mine)").last();
export const finished = (page, timeout = 20_000) => page.locator(".conversation:not([hidden]) .message:not(.mine):last-child:not(.running)").waitFor({ timeout });

/** The number of letters of the last answer. */
export const letters = (page) => answer(page).locator(".answer.main").evaluate((node) => node.textContent.length);

/** The text of the last answer, as the page shows it. */
export const shownText = (page) => answer(page).locator(".answer.main").evaluate((node) => node.textContent);
export const connection = (page) => page.locator("#connection").getAttribute("data-state");

export async function shot(page, name) {
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: join(SHOTS, `${name}.png`) });
}
