/** Every control where it is not expected: pressed twice, in the wrong state, with nobody to answer; and where the focus goes. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { answer, ask, connection, finished, letters, shot, shownText, site, until, words } from "./harness.mjs";
import { Server } from "./server.mjs";

const PHONE = { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true };
const note = (page) => answer(page).locator(".note").textContent();
const focus = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.textContent || document.activeElement.tagName);
const tool = (page, title, name) => page.locator("#sessions li", { hasText: title }).getByRole("button", { name });

/** A row's tools by keyboard: they come with the focus. */
async function reach(page, title, name) {
  await page.locator("#sessions .open", { hasText: title }).focus();
  await tool(page, title, name).focus();
  await page.keyboard.press("Enter");
}

describe("controls", () => {
  const here = site();
  const { fresh } = here;

  /** A page with two conversations, the second one current. */
  async function used() {
    const page = await fresh();
    for (const question of ["apples", "pears"]) {
      await page.click("#new");
      await ask(page, question, "demo:rate=0,tokens=5");
      await finished(page);
    }
    return page;
  }

  test("A double click on Send asks once, and does not stop what it asked.", async () => {
    const page = await fresh();
    await page.fill("#model", "demo:rate=300,tokens=100");
    await page.fill("#prompt", "twice");
    await page.dblclick("#send");
    await finished(page);
    assert.equal(words(await shownText(page)), 100);
    assert.equal(await page.locator(".said").count(), 1);
  });

  test("Send without a word goes to where one writes.", async () => {
    const page = await fresh();
    await page.click("#send");
    assert.equal(await focus(page), "prompt");
    assert.equal(await page.locator(".message").count(), 0);
  });

  test("A frozen page says so, and Stop lets it go on to the end.", async () => {
    const page = await fresh();
    await page.click("#show-drawer");
    await page.click("#freeze");
    await page.click("#hide-drawer");
    assert.match(await page.locator("#trouble").textContent(), /frozen/);
    await ask(page, "on and on", "demo:rate=2000,tokens=50000");
    await until(async () => (await page.locator("#send").textContent()) === "Stop");
    await page.waitForTimeout(600);
    await page.click("#send");
    await finished(page);
    assert.match(await note(page), /Stopped/);
    assert.ok(await page.locator("#trouble").isHidden());
  });

  test("While an answer runs nothing else can be begun in its conversation, and the page does not offer it.", async () => {
    const page = await fresh();
    await ask(page, "first", "demo:rate=0,tokens=5");
    await finished(page);
    await page.click("#show-drawer");
    await ask(page, "second", "demo:rate=200,tokens=5000");
    await until(() => letters(page));
    assert.equal(await page.getByRole("button", { name: /Edit|Try again/ }).count(), 0);
    assert.equal(await page.locator("#flood").getAttribute("aria-disabled"), "true");
    await page.locator("#flood").evaluate((button) => { button.click(); button.click(); });
    assert.equal(await page.locator(".said").count(), 2);
    await page.click("#send");
    await finished(page);
    assert.equal(await page.getByRole("button", { name: /Edit|Try again/ }).count(), 4);
    assert.equal(await page.locator("#flood").getAttribute("aria-disabled"), "false");
  });

  test("Asked while the network is gone, it waits and says so; stopped meanwhile, it is stopped; pressed twice, gone once.", async () => {
    const page = await fresh();
    await page.click("#show-drawer");
    for (const lever of ["#offline", "#drop", "#offline"]) await page.click(lever);
    await ask(page, "never asked", "demo:rate=0,tokens=5");
    assert.match(await note(page), /^Not connected/);
    await page.click("#new");
    await page.locator("#sessions .open").first().click();
    await page.waitForTimeout(600);
    await page.click("#send");
    assert.equal(await note(page), "Stopped");
    await ask(page, "asked later", "demo:rate=0,tokens=7");
    await until(async () => words(await shownText(page)) === 7);
    assert.doesNotMatch(await note(page), /Not connected/);
  });

  test("With the server dead nothing is renamed or deleted, the page says it once, and all is there when it is back.", async () => {
    const own = await new Server().start();
    try {
      const page = await fresh({}, own.url);
      page.on("dialog", (dialog) => dialog.accept());
      await ask(page, "kept", "demo:rate=0,tokens=5");
      await finished(page);
      await own.stop();
      await until(async () => (await connection(page)) !== "connected");
      await tool(page, "kept", /Rename/).click();
      await page.locator("#sessions input").fill("Changed");
      await page.keyboard.press("Enter");
      assert.equal(await page.locator(".notice").textContent(), "Not connected: nothing was renamed.");
      for (let times = 0; times < 3; times += 1) await tool(page, "kept", /Delete/).click();
      assert.equal(await page.locator(".notice").textContent(), "Not connected: nothing was deleted.");
      await shot(page, "dead");
      await own.start();
      await page.reload();
      await finished(page);
      assert.deepEqual(await page.locator("#sessions .open").allTextContents(), ["kept"]);
    } finally { await own.end(); }
  });

  test("A conversation that the server does not have any more says so.", async () => {
    const page = await fresh();
    await page.evaluate(() => localStorage.setItem("wsstream.sessions", JSON.stringify([{ id: "ses_gone", title: "Gone", updated: 1 }])));
    await page.reload();
    await page.locator("#sessions .open").click();
    await page.getByText("The server has nothing of this conversation any more.").waitFor();
    assert.equal(await page.locator(".notice").count(), 1);
    await ask(page, "anew", "demo:rate=0,tokens=5");
    await finished(page);
  });

  test("Where the browser keeps nothing for pages, all but the memory works.", async () => {
    const page = await fresh();
    await page.addInitScript(() => {
      for (const name of ["localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, { get() { throw new DOMException("Access is denied", "SecurityError"); } });
      }
    });
    await page.reload();
    await ask(page, "one", "demo:rate=0,tokens=5");
    await finished(page);
    await page.click("#new");
    await page.click("#theme");
    await ask(page, "two", "demo:rate=0,tokens=6");
    await finished(page);
    assert.equal(words(await shownText(page)), 6);
    assert.deepEqual(await page.locator("#sessions .open").allTextContents(), ["two", "one"]);
  });

  test("The first press on the colours changes them, whatever the system wants.", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const page = await fresh({ colorScheme });
      const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const before = await ground();
      await page.click("#theme");
      assert.notEqual(await ground(), before);
      await page.click("#theme");
      assert.equal(await ground(), before);
    }
  });

  test("The focus goes where one goes on: behind a deletion, trying again, a rename, a dialogue, the newest.", async () => {
    const page = await used();
    page.on("dialog", (dialog) => dialog.accept());
    await answer(page).getByRole("button", { name: "Try again" }).click();
    assert.equal(await focus(page), "prompt");
    await finished(page);
    await reach(page, "apples", /Rename/);
    await page.keyboard.press("Escape");
    assert.equal(await focus(page), "apples");
    await reach(page, "apples", /Rename/);
    await page.locator("#sessions input").fill("plums");
    await page.click("#prompt");
    assert.equal(await focus(page), "prompt");
    assert.deepEqual(await page.locator("#sessions .open").allTextContents(), ["pears", "plums"]);
    await reach(page, "plums", /Delete/);
    assert.equal(await focus(page), "pears");
    await reach(page, "pears", /Delete/);
    assert.equal(await focus(page), "prompt");
    await page.click("#help");
    await page.keyboard.press("Alt+k");
    await page.keyboard.press("Escape");
    assert.equal(await focus(page), "help");
  });

  test("Escape does what is nearest: empties the search, ends a rename, and only then stops an answer.", async () => {
    const page = await used();
    await ask(page, "on and on", "demo:rate=100,tokens=5000");
    await until(() => letters(page));
    await page.fill("#search", "app");
    await page.keyboard.press("Escape");
    assert.equal(await page.inputValue("#search"), "");
    await reach(page, "apples", /Rename/);
    await page.locator("#sessions input").fill("no");
    await page.keyboard.press("Escape");
    assert.deepEqual(await page.locator("#sessions .open").allTextContents(), ["pears", "apples"]);
    assert.equal(await page.locator("#send").textContent(), "Stop");
    await page.keyboard.press("Escape");
    await finished(page);
    assert.match(await note(page), /Stopped/);
  });

  test("On a phone Escape ends a rename and leaves the list, and no keyboard comes up unasked.", async () => {
    const page = await fresh(PHONE);
    await ask(page, "apples", "demo:rate=0,tokens=5");
    await finished(page);
    await page.tap("#show-sidebar");
    await tool(page, "apples", /Rename/).tap();
    await page.locator("#sessions input").fill("no");
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#sidebar.shown").isVisible());
    assert.deepEqual(await page.locator("#sessions .open").allTextContents(), ["apples"]);
    await page.locator("#sessions .open").tap();
    await page.locator("#sidebar.shown").waitFor({ state: "detached" });
    assert.equal(await page.evaluate(() => document.activeElement.matches("textarea, input")), false);
  });

  test("Who does not see the page hears when an answer begins and ends, and when the connection goes and comes.", async () => {
    const page = await fresh();
    await page.evaluate(() => {
      window.heard = [];
      const region = document.getElementById("announcer");
      new MutationObserver(() => window.heard.push(region.textContent.trim())).observe(region, { childList: true, characterData: true, subtree: true });
    });
    await ask(page, "on", "demo:rate=200,tokens=400");
    await until(() => letters(page));
    await page.evaluate(() => document.getElementById("drop").click());
    await finished(page);
    assert.deepEqual(await page.evaluate(() => window.heard), [
      "The answer begins.", "The connection is lost.", "Connected again.", "The answer is complete. 400 words.",
    ]);
  });
});
