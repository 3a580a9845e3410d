/** The page in networks that let no WebSocket through. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { answer, ask, connection, finished, letters, shot, shownText, site, until, words } from "./harness.mjs";
import { OldProxy } from "./server.mjs";

describe("a proxy that knows no WebSockets", () => {
  const here = site();

  async function behind(options) {
    const proxy = await new OldProxy().listen(here.server.port);
    return { proxy, page: await here.fresh(options, proxy.url) };
  }

  test("The page streams over HTTP, and says so.", async () => {
    const { proxy, page } = await behind();
    try {
      await page.click("#show-drawer");
      await ask(page, "on and on", "demo:rate=400,tokens=800");
      await finished(page);
      assert.equal(words(await shownText(page)), 800);
      assert.equal(await page.locator("#f-transport").textContent(), "sse");
      assert.ok(proxy.refused >= 1);
    } finally { proxy.end(); }
  });

  test("An answer survives streams that are cut.", async () => {
    const { proxy, page } = await behind();
    try {
      await page.click("#show-drawer");
      await ask(page, "on and on", "demo:rate=300,tokens=1200,seed=3");
      for (let cut = 0; cut < 4; cut += 1) {
        const before = await letters(page);
        await until(async () => (await letters(page)) > before + 200);
        proxy.cut();
        await until(async () => (await connection(page)) !== "connected");
        await page.locator("#reconnect").evaluate((button) => button.click());
      }
      await finished(page, 30_000);
      assert.equal(words(await shownText(page)), 1200);
      assert.equal(await page.locator("#f-resumes").textContent(), "4");
    } finally { proxy.end(); }
  });

  test("A reload goes on where it was, and Stop stops at the server.", async () => {
    const { proxy, page } = await behind();
    try {
      await ask(page, "on and on", "demo:rate=300,tokens=50000");
      await until(async () => (await letters(page)) > 500);
      await page.reload();
      await until(async () => (await letters(page)) > 1500);
      await page.click("#send");
      await finished(page);
      assert.match(await answer(page).locator(".note").textContent(), /Stopped/);
    } finally { proxy.end(); }
  });

  test("One that keeps event streams back is found out, and the page says who is in the way.", async () => {
    const proxy = await new OldProxy().listen(here.server.port);
    proxy.holdsBack = true;
    try {
      const page = await here.fresh({ connected: false }, proxy.url);
      await page.locator("#trouble").waitFor({ timeout: 15_000 });
      assert.match(await page.locator("#trouble").textContent(), /^A proxy holds the events back: see docs/);
      assert.notEqual(await connection(page), "connected");
      await shot(page, "held-back");
      proxy.holdsBack = false;
      await page.locator("#reconnect").evaluate((button) => button.click());
      await ask(page, "on and on", "demo:rate=0,tokens=40");
      await finished(page);
      assert.equal(words(await shownText(page)), 40);
      assert.ok(await page.locator("#trouble").isHidden());
    } finally { proxy.end(); }
  });
});
