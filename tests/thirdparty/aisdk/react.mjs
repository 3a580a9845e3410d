/** The chat of docs/aisdk.md in a real Chromium: node react.mjs PORT FOLDER, the provider being tests/data/chatty.py. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { ALL, proxyTo } from "./chat.js";

const [port, shots] = process.argv.slice(2);
const proxy = await proxyTo(Number(port));
const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: flags });
const running = async (id) => {
  const { streams } = await (await fetch(`http://127.0.0.1:${port}/chat/api/sessions/${id}/streams`)).json();
  return streams.filter(({ state }) => state === "running").length;
};

class Page {
  async open(wire, id) {
    this.id = `${wire}-${id}`;
    this.page = await (await browser.newContext()).newPage();
    this.faults = [];
    this.page.on("pageerror", (error) => this.faults.push(String(error)));
    await this.page.goto(`http://127.0.0.1:${proxy.port}/${wire}.html?chat=${this.id}`);
    await this.is("ready");
    return this;
  }
  is(status) { return this.page.locator(`main[data-status=${status}]`).waitFor({ timeout: 15_000 }); }
  async ask(text) { await this.page.fill("input", text); await this.page.press("input", "Enter"); }
  press(name) { return this.page.getByRole("button", { name }).click(); }
  said() { return this.page.locator("article").evaluateAll((all) => all.map((one) => `${one.className}: ${one.textContent.trim()}`)); }
  async longerThan(length) {
    await this.page.waitForFunction((least) => (document.querySelector("article.assistant:last-of-type")?.textContent.length ?? 0) > least, length);
  }
  async shot(name) {
    if (!shots) return;
    mkdirSync(shots, { recursive: true });
    await this.page.screenshot({ path: join(shots, `${this.id}-${name}.png`) });
  }
  async close() { assert.deepEqual(this.faults, []); await this.page.context().close(); }
}

const WHOLE = `assistant: ${ALL.trim()}`;
const scenes = {
  async "questions, and one asked again"(page) {
    await page.ask("one");
    await page.page.getByText("1 messages, the last: one").waitFor();
    await page.is("ready");
    await page.ask("two");
    await page.page.getByText("3 messages, the last: two").waitFor();
    await page.is("ready");
    await page.press("Again");
    await page.is("ready");
    await page.page.getByText("3 messages, the last: two").waitFor();
    const before = await page.said();
    assert.deepEqual(before.length, 4);
    await page.page.reload();
    await page.is("ready");
    assert.deepEqual(await page.said(), before);
  },
  async "a reload in the middle of an answer"(page) {
    await page.ask("slow");
    await page.longerThan(300);
    await page.page.reload();
    await page.longerThan(300);
    await page.is("streaming");
    await page.shot("resumed");
    await page.is("ready");
    assert.deepEqual(await page.said(), ["user: slow", WHOLE]);
  },
  async "a stop, which stays one"(page, wire) {
    await page.ask("slow");
    await page.longerThan(100);
    await page.press("Stop");
    await page.is("ready");
    if (wire === "http") await fetch(`http://127.0.0.1:${port}/chat/api/ai/chat/${page.id}/stream`, { method: "DELETE" });
    while (await running(page.id)) await new Promise((resolve) => setTimeout(resolve, 20));
    await page.page.reload();
    await page.is("ready");
    const [, answer] = await page.said();
    assert.ok(answer.length < WHOLE.length && WHOLE.startsWith(answer), answer);
  },
  async "a lost connection"(page) {
    await page.ask("slow");
    await page.longerThan(200);
    proxy.cut();
    await page.page.getByText("The connection was lost").waitFor();
    await page.shot("lost");
    await page.is("ready");
    assert.deepEqual(await page.said(), ["user: slow", WHOLE]);
  },
  async "a question that is lost with its connection"(page) {
    await page.ask("one");
    await page.page.getByText("1 messages, the last: one").waitFor();
    await page.is("ready");
    proxy.refuses = true;
    proxy.cut();
    await page.ask("two");
    await page.page.getByText("The connection was lost").waitFor();
    proxy.refuses = false;
    await page.page.getByText("3 messages, the last: two").waitFor();
    await page.is("ready");
    assert.equal((await page.said()).length, 4);
  },
  async "a failure in the middle"(page) {
    await page.ask("fail");
    await page.is("error");
    assert.deepEqual(await page.said(), ["user: fail", "assistant: half"]);
    assert.equal(await page.page.getByRole("alert").textContent(), "The provider failed");
  },
  async "thoughts, kept over a reload"(page) {
    await page.ask("reason");
    await page.page.getByText("So be it.").waitFor();
    await page.is("ready");
    await page.page.reload();
    await page.is("ready");
    assert.deepEqual(await page.said(), ["user: reason", "assistant: Let me think.So be it."]);
  },
};

try {
  for (const wire of ["ws", "http"]) {
    for (const [name, play] of Object.entries(scenes)) {
      const page = await new Page().open(wire, name.replaceAll(/[^a-z]+/g, "-"));
      try {
        await play(page, wire);
        await page.close();
      } catch (error) {
        await page.shot("failed");
        throw new Error(`${wire}: ${name}; there is ${JSON.stringify(await page.said())}, and ${page.faults}`, { cause: error });
      }
      console.log(`ok: ${wire}: ${name}`);
    }
  }
} finally {
  await browser.close();
  proxy.close();
}
