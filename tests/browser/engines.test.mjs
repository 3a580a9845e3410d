/** The page in the other engines: the main things once each, and tabs that are really hidden. */
import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { engines } from "./engines.mjs";
import { Cutter, OldProxy, Server } from "./server.mjs";
import { until, words } from "./until.mjs";

const ANSWER = ".conversation:not([hidden]) .message:not(.mine):last-child";
const text = (tab) => tab.evaluate((selector) => document.querySelector(`${selector} .answer.main`)?.textContent ?? "", ANSWER);
const letters = async (tab) => (await text(tab)).length;
const note = (tab) => tab.evaluate((selector) => document.querySelector(`${selector} .note`)?.textContent ?? "", ANSWER);
const state = (tab) => tab.evaluate(() => document.getElementById("connection")?.dataset.state);
const connected = (tab) => until(async () => (await state(tab)) === "connected", 20_000);
const finished = (tab, timeout = 30_000) => until(() => tab.evaluate((selector) => Boolean(document.querySelector(`${selector}:not(.running)`)), ANSWER), timeout);

async function ask(tab, question, model) {
  if (model) await tab.evaluate((model) => { document.getElementById("model").value = model; }, model);
  await tab.type("#prompt", question);
  await tab.press("#prompt", "Enter");
}

/** In the page: counts the frames and the timers of 20 ms that it gets. */
function watchClocks() {
  const clocks = window.clocks = { frames: 0, timers: 0 };
  const frame = () => { clocks.frames += 1; requestAnimationFrame(frame); };
  const timer = () => { clocks.timers += 1; setTimeout(timer, 20); };
  requestAnimationFrame(frame);
  setTimeout(timer, 20);
}

for (const { name, missing, launch, hides } of engines) {
  describe(name, { skip: missing ? `no ${missing} here` : false }, () => {
    const picture = (what) => `${name.toLowerCase().split(" ")[0]}-${what}`;
    let browser, server, tabs = [];
    before(async () => {
      server = await new Server().start();
      browser = await launch();
    });
    afterEach(async () => {
      const faults = tabs.flatMap((tab) => tab.faults);
      for (const tab of tabs.splice(0)) await tab.close();
      assert.deepEqual(faults, []);
    });
    after(async () => {
      await browser?.end();
      await server?.end();
    });

    /** A tab in a new conversation. */
    async function fresh(url = server.url) {
      const tab = await browser.open(url);
      tabs.push(tab);
      await tab.show();
      await connected(tab);
      await tab.evaluate(() => document.getElementById("new").click());
      return tab;
    }

    test("A question is answered to its end, with figures and colours, in the light and in the dark.", async () => {
      const tab = await fresh();
      await ask(tab, "Show me code for a stream reader", "demo");
      await finished(tab);
      assert.match(await note(tab), /tokens · first after .* ms · \d+ tokens\/s/);
      await until(() => tab.evaluate(() => document.querySelectorAll(".hl-keyword").length > 2));
      await tab.shot(picture("light"));
      const ground = () => tab.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const before = await ground();
      await until(async () => {
        await tab.click("#theme");
        return (await ground()) !== before;
      });
      await tab.shot(picture("dark"));
      assert.equal(await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0);
    });

    test("Stop stops, and a second question is answered.", async () => {
      const tab = await fresh();
      await ask(tab, "on and on", "demo:rate=500,tokens=50000");
      await until(async () => (await letters(tab)) > 1000);
      await tab.click("#send");
      await finished(tab);
      assert.match(await note(tab), /Stopped/);
      await ask(tab, "once more", "demo:rate=0,tokens=5");
      await until(async () => words(await text(tab)) === 5);
    });

    test("A reload in the middle of an answer loses no word.", async () => {
      const tab = await fresh();
      await ask(tab, "on and on", "demo:rate=300,tokens=900,seed=4");
      await until(async () => (await letters(tab)) > 500);
      await tab.reload();
      await finished(tab);
      assert.equal(words(await text(tab)), 900);
    });

    test("A connection that is cut is resumed, and nothing is lost or there twice.", async () => {
      const cutter = await new Cutter().listen(server.port);
      try {
        const tab = await fresh(cutter.url);
        await tab.click("#show-drawer");
        await ask(tab, "on and on", "demo:rate=300,tokens=1200,seed=2");
        for (let cut = 0; cut < 3; cut += 1) {
          const before = await letters(tab);
          await until(async () => (await letters(tab)) > before + 300);
          cutter.cut();
          await until(async () => (await state(tab)) !== "connected");
          await tab.evaluate(() => document.getElementById("reconnect").click());
          await connected(tab);
        }
        await finished(tab);
        assert.equal(words(await text(tab)), 1200);
        assert.equal(await tab.evaluate(() => document.getElementById("f-resumes").textContent), "3");
        await tab.shot(picture("resumed"));
      } finally { cutter.end(); }
    });

    test("Two tabs follow one answer, and either stops it.", async () => {
      const one = await fresh();
      await ask(one, "first", "demo:rate=0,tokens=5");
      await finished(one);
      const two = await fresh();
      await two.evaluate(() => document.querySelector("#sessions .open").click());
      await finished(two);
      await one.show();
      await ask(one, "on and on", "demo:rate=200,tokens=20000");
      await until(async () => (await letters(two)) > 100);
      await two.show();
      await two.click("#send");
      await Promise.all([finished(one), finished(two)]);
      assert.match(await note(one), /Stopped/);
      assert.equal(await text(one), await text(two));
    });

    test("Where no WebSocket gets through, the answer comes over HTTP and survives a cut.", async () => {
      const proxy = await new OldProxy().listen(server.port);
      try {
        const tab = await fresh(proxy.url);
        await tab.click("#show-drawer");
        await ask(tab, "on and on", "demo:rate=300,tokens=900");
        await until(async () => (await letters(tab)) > 500);
        proxy.cut();
        await until(async () => (await state(tab)) !== "connected");
        await tab.evaluate(() => document.getElementById("reconnect").click());
        await finished(tab);
        assert.equal(words(await text(tab)), 900);
        assert.equal(await tab.evaluate(() => document.getElementById("f-transport").textContent), "sse");
      } finally { proxy.end(); }
    });

    test("A tab that is really hidden gets no frames and slow timers, keeps up all the same, and shows it all when it is back.", { skip: hides ? false : "its driver does not hide tabs" }, async () => {
      const tab = await fresh();
      const other = await fresh();
      await tab.show();
      await ask(tab, "on and on", "demo:rate=1000,tokens=15000");
      await until(() => letters(tab));
      await other.show();
      await until(() => tab.evaluate(() => document.hidden));
      await tab.evaluate(watchClocks);
      const before = words(await text(tab));
      await until(async () => words(await text(tab)) > before + 6000, 30_000);
      const { frames, timers } = await tab.evaluate(() => window.clocks);
      const shown = words(await text(tab)) - before;
      // A window is 200 chunks: acknowledged by frames or timers, that would be all there is for each of them.
      assert.ok(shown > 300 * (frames + timers), `${shown} words, ${frames} frames, ${timers} timers`);
      assert.equal(await tab.evaluate(() => document.visibilityState), "hidden");
      await tab.show();
      await finished(tab);
      assert.equal(words(await text(tab)), 15_000);
    });
  });
}
