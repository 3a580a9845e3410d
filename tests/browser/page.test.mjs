/** The chat page in a real Chromium, with a real server behind it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { answer, ask, axeSource, connection, finished, letters, open, shot, shownText, site, until, words } from "./harness.mjs";
import { Cutter, Server } from "./server.mjs";

const PHONE = { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const sessions = (page) => page.locator("#sessions .open").allTextContents();

describe("page", () => {
  const here = site();
  const { fresh } = here;

  test("A question is answered, with markdown, figures and colours.", async () => {
    const page = await fresh();
    await shot(page, "welcome");
    await ask(page, "Show me code for a stream reader");
    await until(() => letters(page));
    assert.equal(await page.locator("#send").textContent(), "Stop");
    await shot(page, "streaming");
    await finished(page);
    assert.match(await answer(page).locator(".note").textContent(), /tokens · first after .* ms · \d+ tokens\/s/);
    assert.equal(await answer(page).locator(".code").count(), 2);
    await answer(page).locator(".hl-keyword").first().waitFor();
    await page.locator("#messages").evaluate((node) => { node.scrollTop = 0; });
    await page.waitForTimeout(600);
    await page.locator("#prompt").blur();
    await shot(page, "light");
    assert.equal(await page.locator("#send").textContent(), "Send");
    assert.deepEqual(await sessions(page), ["Show me code for a stream reader"]);
    assert.match(await page.locator("#announcer").textContent(), /complete/);
  });

  test("Code and answers are copied as they were written.", async () => {
    const page = await fresh();
    await ask(page, "Show me code", "demo");
    await finished(page);
    await answer(page).locator(".code-head .copy").first().click();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def feed\(.*\n {4}\*events.*\n {4}return events, rest$/s);
    await answer(page).getByRole("button", { name: "Copy" }).last().click();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /```python\ndef feed/);
  });

  test("A reload in the middle of an answer goes on where it was, and loses no word.", async () => {
    const page = await fresh();
    await ask(page, "on and on", "demo:rate=300,tokens=900,seed=4");
    await until(async () => (await letters(page)) > 500);
    await page.reload();
    await finished(page);
    assert.equal(words(await shownText(page)), 900);
    assert.equal(await page.locator(".message.mine .said").textContent(), "on and on");
    assert.match(await answer(page).locator(".note").textContent(), /900 tokens/);
    await page.reload();
    await until(async () => words(await shownText(page)) === 900);
  });

  test("A dropped connection is resumed within the answer.", async () => {
    const page = await fresh();
    await page.click("#show-drawer");
    await ask(page, "on and on", "demo:rate=400,tokens=1200");
    await until(async () => (await letters(page)) > 300);
    await page.click("#drop");
    await finished(page);
    assert.equal(words(await shownText(page)), 1200);
    assert.equal(await page.locator("#f-resumes").textContent(), "1");
    await shot(page, "resumed");
  });

  test("Five seconds offline cost no word, and the page says what it does.", async () => {
    const page = await fresh();
    await page.click("#show-drawer");
    await ask(page, "on and on", "demo:rate=200,tokens=600");
    await until(async () => (await letters(page)) > 200);
    await page.click("#offline");
    await page.getByText("Offline on purpose").waitFor();
    // What came before is painted yet.
    await page.waitForTimeout(300);
    const before = await letters(page);
    await page.waitForTimeout(800);
    assert.equal(await letters(page), before);
    await shot(page, "offline");
    await finished(page);
    assert.equal(words(await shownText(page)), 600);
  });

  test("Of a long conversation the newest messages are there at once, and the others when they are asked for.", async () => {
    const page = await fresh();
    await ask(page, "question 0", "demo:rate=0,tokens=5");
    await finished(page);
    const id = await page.evaluate(() => JSON.parse(localStorage.getItem("wsstream.sessions"))[0].id);
    for (let n = 1; n <= 70; n += 1) {
      const body = JSON.stringify({ message: `question ${n}`, model: "demo:rate=0,tokens=5", session_id: id });
      await fetch(new URL("/api/chat", page.url()), { method: "POST", body, headers: { "Content-Type": "application/json" } });
    }
    await page.reload();
    const asked = () => page.locator(".message.mine .said").allTextContents();
    const numbers = (first) => Array.from({ length: 71 - first }, (_, n) => `question ${n + first}`);
    await until(async () => (await asked()).length);
    assert.deepEqual(await asked(), numbers(41));
    for (const first of [11, 0]) {
      await page.locator(".earlier").click();
      await until(async () => (await asked()).length === 71 - first);
      assert.deepEqual(await asked(), numbers(first));
      const oldest = page.locator(".message.mine").nth(first ? 30 : 11);
      await until(() => oldest.evaluate((node) => Math.abs(node.getBoundingClientRect().top - document.getElementById("messages").getBoundingClientRect().top) < 60));
    }
    assert.equal(await page.locator(".earlier").count(), 0);
    assert.equal(await page.locator(".message").count(), 142);
    await ask(page, "and now?", "demo:rate=0,tokens=5");
    await finished(page);
    assert.equal((await asked()).at(-1), "and now?");
  });

  test("Two tabs follow one answer from its start, and either stops it.", async () => {
    const one = await fresh();
    await ask(one, "first", "demo:rate=0,tokens=5");
    await finished(one);
    const two = await open(one.context(), one.url());
    await two.locator("#sessions .open").first().click();
    await finished(two);
    assert.equal(await two.locator(".conversation:not([hidden]) .message").count(), 2);
    await ask(one, "on and on", "demo:rate=200,tokens=20000");
    await until(async () => (await letters(two)) > 100);
    assert.equal(await two.locator(".message.mine .said").last().textContent(), "on and on");
    await two.click("#send");
    await Promise.all([finished(one), finished(two)]);
    assert.match(await answer(one).locator(".note").textContent(), /Stopped/);
    assert.equal(await shownText(one), await shownText(two));
    assert.deepEqual(two.faults, []);
  });

  test("Stop works in a flood.", async (t) => {
    const page = await fresh();
    await ask(page, "as fast as you can", "demo:rate=5000,tokens=100000");
    await until(async () => (await letters(page)) > 20_000);
    await page.keyboard.press("Escape");
    await finished(page);
    assert.match(await answer(page).locator(".note").textContent(), /Stopped/);
    t.diagnostic(`stopped after ${await answer(page).getAttribute("data-stop-ms")} ms`);
  });

  test("Conversations are listed, searched, renamed and deleted, here and at the server.", async () => {
    const page = await fresh();
    for (const question of ["about apples", "about pears"]) {
      await page.click("#new");
      await ask(page, question, "demo:rate=0,tokens=5");
      await finished(page);
    }
    assert.deepEqual(await sessions(page), ["about pears", "about apples"]);
    await page.fill("#search", "APP");
    assert.deepEqual(await sessions(page), ["about apples"]);
    await page.locator("#sessions .open").click();
    assert.equal(await page.locator(".conversation:not([hidden]) .said").textContent(), "about apples");
    await page.getByRole("button", { name: "Rename about apples" }).click();
    await page.locator("#sessions input").fill("Fruit");
    await page.keyboard.press("Enter");
    await page.fill("#search", "");
    assert.deepEqual(await sessions(page), ["about pears", "Fruit"]);
    await page.evaluate(() => localStorage.setItem("wsstream.sessions", localStorage.getItem("wsstream.sessions").replace("Fruit", "?")));
    await page.reload();
    await until(async () => (await page.locator("#title").textContent()) === "Fruit");
    page.on("dialog", (dialog) => dialog.accept());
    await page.locator("#sessions li.current .tool").last().click();
    assert.deepEqual(await sessions(page), ["about pears"]);
    assert.equal(await page.locator("#title").textContent(), "New conversation");
  });

  test("An answer goes on while another conversation is on the page.", async () => {
    const page = await fresh();
    await ask(page, "long one", "demo:rate=300,tokens=600");
    await until(() => letters(page));
    await page.click("#new");
    await ask(page, "short one", "demo:rate=0,tokens=5");
    await finished(page);
    await page.locator("#sessions .open", { hasText: "long one" }).click();
    await finished(page);
    assert.equal(words(await shownText(page)), 600);
  });

  test("A message is edited and sent again in place of what followed, also after a reload.", async () => {
    const page = await fresh();
    await ask(page, "wrong", "demo:rate=0,tokens=3");
    await finished(page);
    await ask(page, "right", "demo:rate=0,tokens=4");
    await finished(page);
    await page.press("#prompt", "ArrowUp");
    assert.equal(await page.inputValue("#prompt"), "right");
    await page.fill("#prompt", "better");
    await page.press("#prompt", "Enter");
    await finished(page);
    assert.deepEqual(await page.locator(".said").allTextContents(), ["wrong", "better"]);
    await answer(page).getByRole("button", { name: "Try again" }).click();
    await finished(page);
    assert.deepEqual(await page.locator(".said").allTextContents(), ["wrong", "better"]);
    await page.reload();
    await finished(page);
    assert.deepEqual(await page.locator(".said").allTextContents(), ["wrong", "better"]);
  });

  test("What fails says why, and can be tried again.", async () => {
    const page = await fresh();
    await ask(page, "hello", "nonsense");
    await finished(page);
    assert.match(await answer(page).locator(".note.bad").textContent(), /demo provider/);
    await shot(page, "failed");
    await page.fill("#model", "demo:rate=0,tokens=7");
    await answer(page).getByRole("button", { name: "Try again" }).click();
    await finished(page);
    assert.equal(words(await shownText(page)), 7);
    assert.equal(await page.locator(".message").count(), 2);
  });

  test("A reader who stands still gets a window and no more, and everything later.", async () => {
    const page = await fresh();
    await page.click("#show-drawer");
    await page.click("#freeze");
    await ask(page, "on and on", "demo:rate=2000,tokens=1000");
    await until(async () => (await page.locator("#inflight").textContent()) === "200 / 200");
    await page.waitForTimeout(700);
    assert.equal(await page.locator("#f-last").textContent(), "200");
    assert.equal(await letters(page), 0);
    await shot(page, "frozen");
    await page.click("#freeze");
    await finished(page);
    assert.equal(words(await shownText(page)), 1000);
  });

  test("A hidden tab, without frames and with slow timers, keeps up.", async () => {
    const page = await fresh();
    await page.evaluate(() => {
      const later = window.setTimeout;
      Object.defineProperty(document, "hidden", { get: () => true });
      window.requestAnimationFrame = () => 1;
      window.setTimeout = (call, ms, ...rest) => later(call, Math.max(1000, ms), ...rest);
      document.dispatchEvent(new Event("visibilitychange"));
    });
    const from = Date.now();
    await ask(page, "on and on", "demo:rate=2000,tokens=6000");
    await finished(page);
    assert.equal(words(await shownText(page)), 6000);
    // At a window per slow timer it would have taken half a minute.
    assert.ok(Date.now() - from < 20_000);
  });

  test("A restarted server has the conversation still, and a cut answer says so.", async () => {
    const own = await new Server().start();
    try {
      const page = await fresh({}, own.url);
      await ask(page, "before", "demo:rate=0,tokens=6");
      await finished(page);
      await ask(page, "cut", "demo:rate=100,tokens=5000");
      await until(async () => (await letters(page)) > 100);
      await own.stop();
      await until(async () => (await connection(page)) !== "connected");
      await own.start();
      await page.locator('#connection[data-state="connected"]').waitFor({ timeout: 20_000 });
      await finished(page);
      assert.ok(await answer(page).locator(".note.bad").count());
      await page.reload();
      await finished(page);
      assert.deepEqual(await page.locator(".said").allTextContents(), ["before", "cut"]);
      await until(async () => /The server was restarted/.test(await answer(page).locator(".note").textContent()));
    } finally { await own.end(); }
  });

  test("Killed connections take nothing off the page and put nothing there twice.", async () => {
    const cutter = await new Cutter().listen(here.server.port);
    try {
      const page = await fresh({}, cutter.url);
      await page.click("#show-drawer");
      await ask(page, "on and on", "demo:rate=300,tokens=900,seed=2");
      for (let cut = 0; cut < 6; cut += 1) {
        await until(async () => (await connection(page)) === "connected");
        await page.waitForTimeout(150);
        const before = cutter.upgrades;
        cutter.cut();
        await until(async () => {
          if ((await connection(page)) !== "connected") await page.locator("#reconnect").evaluate((button) => button.click());
          return cutter.upgrades > before;
        });
      }
      await finished(page, 30_000);
      assert.equal(words(await shownText(page)), 900);
    } finally { cutter.end(); }
  });

  test("Light, dark, and what the system wants.", async () => {
    const page = await fresh({ colorScheme: "dark" });
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await ask(page, "How does a credit window work?");
    await page.click("#show-drawer");
    await until(async () => (await letters(page)) > 250);
    await page.click("#drop");
    await until(async () => (await letters(page)) > 600);
    await shot(page, "dark");
    await page.click("#theme");
    const light = await ground();
    assert.notEqual(light, dark);
    await page.click("#theme");
    assert.equal(await ground(), dark);
    await page.reload();
    assert.equal(await ground(), dark);
  });

  test("On a phone nothing is wider than the screen, and all is within reach.", async () => {
    for (const width of [320, 390]) {
      const page = await fresh({ ...PHONE, viewport: { width, height: 700 } });
      await ask(page, "Show me code for a stream reader", "demo");
      await until(() => answer(page).locator(".code").count());
      const wide = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.equal(await wide(), 0);
      await shot(page, `phone-${width}`);
      await page.click("#show-sidebar");
      await page.locator("#sidebar.shown").waitFor();
      await page.waitForTimeout(300);
      assert.equal(await wide(), 0);
      await shot(page, `phone-${width}-list`);
      await page.click("#hide-sidebar");
      await page.click("#show-drawer");
      assert.ok(await page.locator("#drop").isVisible());
      await page.click("#hide-drawer");
      await finished(page);
    }
  });

  test("The keyboard does it all.", async () => {
    const page = await fresh();
    await page.keyboard.type("line one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("line two");
    await page.fill("#model", "demo:rate=100,tokens=1000");
    await page.press("#prompt", "Enter");
    await until(() => letters(page));
    assert.equal(await page.locator(".said").textContent(), "line one\nline two");
    await page.keyboard.press("Escape");
    await finished(page);
    await page.keyboard.press("Alt+n");
    assert.equal(await page.locator("#title").textContent(), "New conversation");
    await page.keyboard.press("Alt+k");
    assert.equal(await page.evaluate(() => document.activeElement.id), "search");
    await page.keyboard.press("Alt+u");
    assert.equal(await page.evaluate(() => document.activeElement.id), "hide-drawer");
    await page.keyboard.press("?");
    assert.ok(await page.locator("#shortcuts").isVisible());
    await page.keyboard.press("Escape");
    await page.locator("#shortcuts").waitFor({ state: "hidden" });
  });

  for (const [name, options] of [["on a desk", {}], ["in the dark", { colorScheme: "dark" }], ["on a phone", PHONE]]) {
    test(`axe finds nothing ${name}.`, async () => {
      const page = await fresh(options);
      const look = async () => {
        await page.evaluate(axeSource());
        const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
        return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html.slice(0, 120))]);
      };
      assert.deepEqual(await look(), []);
      await ask(page, "Show me code for a stream reader", "demo");
      await finished(page);
      await ask(page, "How does a credit window work?");
      await until(() => letters(page));
      await page.click("#show-drawer");
      assert.deepEqual(await look(), []);
      await page.click("#hide-drawer");
      if (await page.locator("#show-sidebar").isVisible()) await page.click("#show-sidebar");
      await page.waitForTimeout(300);
      assert.deepEqual(await look(), []);
    });
  }

  test("Names like __proto__ in messages and in storage change no object.", async () => {
    const context = await here.browser.newContext();
    await context.addInitScript(() => {
      localStorage.setItem("wsstream.sessions", '[{"id":"__proto__","title":"x","updated":1,"__proto__":{"polluted":1}},{"id":"constructor","title":"y","updated":2}]');
      const Real = window.WebSocket;
      window.WebSocket = class extends Real {
        set onmessage(listener) {
          super.onmessage = (event) => {
            const message = event.data.replace(/^\{/, '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},');
            listener(new MessageEvent("message", { data: message.replace('"usage":{', '"usage":{"__proto__":{"polluted":1},') }));
          };
        }
      };
    });
    const page = await open(context, here.server.url);
    here.pages.push(page);
    await page.click("#new");
    await ask(page, "__proto__", "demo:rate=0,tokens=9");
    await finished(page);
    assert.equal(words(await shownText(page)), 9);
    assert.equal(await page.evaluate(() => ({}).polluted), undefined);
    assert.equal(await page.locator("#sessions .open").count(), 3);
  });
});
