/**
 * Browsers that playwright-core does not drive as they are: Debian's Firefox (WebDriver BiDi), WebKitGTK, which is Safari's
 * engine (WebDriver), and a Chromium with real tabs, which only one with a screen has. All behave as a `Tab`.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join, resolve } from "node:path";
import { freePort } from "./server.mjs";
import { SHOTS, until } from "./until.mjs";

const require = createRequire(join(resolve(process.env.WSSTREAM_BROWSER_MODULES ?? "."), "node_modules", "_"));
const SIZE = { width: 1280, height: 800 };
const found = (...names) => names.flatMap((name) => (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, name))).find((path) => existsSync(path));

/** @typedef {{open: (url: string) => Promise<Tab>, end: () => Promise<void>}} Browser `open` makes a tab and shows it */

/** Every engine: its name, what it needs and is not here (null where it can start), and how it starts. */
export const engines = [
  { name: "Firefox", missing: missing({ firefox: found("firefox-esr", "firefox"), "puppeteer-core (npm)": puppeteer() }), launch: firefox, hides: true },
  { name: "Chromium with a screen", missing: missing({ Chromium: chromium(), Xvfb: found("Xvfb"), "puppeteer-core (npm)": puppeteer() }), launch: headed, hides: true },
  { name: "WebKit", missing: missing({ WebKitWebDriver: found("WebKitWebDriver"), Xvfb: found("Xvfb"), MiniBrowser: miniBrowser() }), launch: webkit },
];

function missing(needed) { return Object.keys(needed).find((name) => !needed[name]) ?? null; }
function chromium() { return process.env.CHROMIUM || found("chromium", "chromium-browser", "google-chrome"); }
function puppeteer() { try { return require("puppeteer-core"); } catch { return null; } }

/** The smallest browser of WebKitGTK; Debian keeps it beside the library. */
function miniBrowser() {
  const folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/libexec"].filter((path) => existsSync(path));
  const beside = folders.flatMap((path) => readdirSync(path).filter((name) => name.startsWith("webkit2gtk-") || name.startsWith("webkitgtk-")).map((name) => join(path, name, "MiniBrowser")));
  return beside.find((path) => existsSync(path));
}

/** A screen that is nowhere. @returns {Promise<{display: string, end: () => void}>} */
async function screen() {
  const server = spawn(found("Xvfb"), ["-displayfd", "3", "-screen", "0", "1400x1000x24", "-nolisten", "tcp"], { stdio: ["ignore", "ignore", "ignore", "pipe"] });
  const number = await new Promise((done, failed) => {
    server.stdio[3].once("data", done);
    server.once("exit", (code) => failed(new Error(`Xvfb ended with ${code}`)));
  });
  return { display: `:${String(number).trim()}`, end: () => server.kill() };
}

async function firefox() {
  const browser = await puppeteer().launch({ browser: "firefox", executablePath: found("firefox-esr", "firefox"), headless: true, defaultViewport: SIZE });
  return { open: (url) => PuppetTab.open(browser, url), end: () => browser.close() };
}

/** What drives browsers keeps hidden tabs awake, unless it is told not to. */
const AWAKE = ["--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"];

async function headed() {
  const { display, end } = await screen();
  const browser = await puppeteer().launch({
    executablePath: chromium(), headless: false, defaultViewport: SIZE, ignoreDefaultArgs: AWAKE, env: { ...process.env, DISPLAY: display },
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  return { open: (url) => PuppetTab.open(browser, url), end: async () => { await browser.close(); end(); } };
}

/** What browsers log of connections that tests cut. */
const LOST = /ERR_|net::|404|WebSocket|Firefox can.t establish a connection|The connection to \S+ was interrupted/;

class PuppetTab {
  faults = [];

  static async open(browser, url) {
    const tab = new PuppetTab();
    tab.page = await browser.newPage();
    const fault = (words) => { if (!LOST.test(words)) tab.faults.push(words.slice(0, 300)); };
    tab.page.on("pageerror", (error) => fault(String(error)));
    tab.page.on("console", (message) => { if (message.type() === "error") fault(message.text()); });
    tab.page.on("request", (request) => {
      const { origin, protocol } = new URL(request.url());
      if (origin !== new URL(url).origin && protocol !== "data:") fault(`loaded ${request.url()}`);
    });
    await tab.page.goto(url);
    return tab;
  }

  evaluate(call, ...values) { return this.page.evaluate(call, ...values); }
  reload() { return this.page.reload(); }
  click(selector) { return this.page.click(selector); }
  async press(selector, key) {
    await this.page.focus(selector);
    return this.page.keyboard.press(key);
  }

  type(selector, text) { return this.page.type(selector, text); }
  show() { return this.page.bringToFront(); }
  close() { return this.page.close(); }

  async shot(name) {
    mkdirSync(SHOTS, { recursive: true });
    await this.page.screenshot({ path: join(SHOTS, `${name}.png`) });
  }
}

async function webkit() {
  const { display, end } = await screen();
  const port = await freePort();
  const driver = spawn(found("WebKitWebDriver"), [`--port=${port}`], { env: { ...process.env, DISPLAY: display }, stdio: "ignore" });
  const ask = async (method, path, body) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, ...(body && { body: JSON.stringify(body) }), signal: AbortSignal.timeout(30_000) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${value.error} ${value.message}`);
    return value;
  };
  await until(() => ask("GET", "/status").catch(() => null));
  const options = { binary: miniBrowser(), args: ["--automation"] };
  const { sessionId } = await ask("POST", "/session", { capabilities: { alwaysMatch: { "webkitgtk:browserOptions": options } } });
  const session = (method, path, body) => ask(method, `/session/${sessionId}${path}`, body);
  // The window that it starts with stays: a browser ends with its last one.
  const first = await session("GET", "/window");
  const open = async (url) => {
    await session("POST", "/window", { handle: first });
    return DriverTab.open(session, (await session("POST", "/window/new", { type: "window" })).handle, url);
  };
  return { open, end: async () => { await ask("DELETE", `/session/${sessionId}`); driver.kill(); end(); } };
}

const ELEMENT = "element-6066-11e4-a52e-4f735466cecf";
const KEYS = { Enter: "\ue007" };

/** A tab behind WebDriver: it has one window at a time, which is said before everything. */
class DriverTab {
  faults = [];

  static async open(session, handle, url) {
    const tab = Object.assign(new DriverTab(), { session, handle });
    await tab.#ask("POST", "/window/rect", { ...SIZE, x: 0, y: 0 });
    await tab.#ask("POST", "/url", { url });
    return tab;
  }

  async #ask(method, path, body = {}) {
    await this.session("POST", "/window", { handle: this.handle });
    return this.session(method, path, method === "GET" ? undefined : body);
  }

  async #element(selector) {
    const { [ELEMENT]: id } = await this.#ask("POST", "/element", { using: "css selector", value: selector });
    return `/element/${id}`;
  }

  evaluate(call, ...values) { return this.#ask("POST", "/execute/sync", { script: `return (${call}).apply(null, arguments)`, args: values }); }
  reload() { return this.#ask("POST", "/refresh"); }
  async click(selector) { return this.#ask("POST", `${await this.#element(selector)}/click`); }
  async type(selector, text) { return this.#ask("POST", `${await this.#element(selector)}/value`, { text }); }
  press(selector, key) { return this.type(selector, KEYS[key]); }
  show() { return this.#ask("GET", "/window"); }
  close() { return this.#ask("DELETE", "/window"); }

  async shot(name) {
    mkdirSync(SHOTS, { recursive: true });
    writeFileSync(join(SHOTS, `${name}.png`), Buffer.from(await this.#ask("GET", "/screenshot"), "base64"));
  }
}
