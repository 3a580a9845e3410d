/** Two browsers that know of one conversation, as one person has them on two machines. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { answer, ask, finished, letters, shownText, site, until, words } from "./harness.mjs";

describe("another browser", () => {
  const { fresh } = site();

  /** Two pages: the first one has asked something, the second one knows of it and has a conversation of its own. */
  async function two() {
    const [one, other] = [await fresh(), await fresh()];
    await ask(one, "shared", "demo:rate=0,tokens=5");
    await ask(other, "own", "demo:rate=0,tokens=5");
    await Promise.all([finished(one), finished(other)]);
    const id = await one.evaluate(() => sessionStorage.getItem("wsstream.session"));
    await other.evaluate((id) => {
      const list = JSON.parse(localStorage.getItem("wsstream.sessions"));
      localStorage.setItem("wsstream.sessions", JSON.stringify([...list, { id, title: "shared", updated: 1 }]));
    }, id);
    await other.reload();
    await finished(other);
    return { one, other, id };
  }

  const showShared = async (page) => {
    await page.locator("#sessions .open", { hasText: "shared" }).click();
    await until(async () => (await page.locator(".conversation:not([hidden]) .said").first().textContent()) === "shared");
  };
  const asked = (page) => page.locator(".conversation:not([hidden]) .said").allTextContents();

  test("An answer that begins there appears, whatever this page was opened with, and either stops it.", async () => {
    const { one, other } = await two();
    await showShared(other);
    await ask(one, "second", "demo:rate=300,tokens=20000");
    await until(async () => (await asked(other)).length === 2 && (await letters(other)) > 200);
    assert.deepEqual(await asked(other), ["shared", "second"]);
    await other.click("#send");
    await Promise.all([finished(one), finished(other)]);
    assert.equal(await shownText(one), await shownText(other));
    assert.match(await answer(one).locator(".note").textContent(), /Stopped/);
  });

  test("What this page asks itself is shown once, though both its connections hear of it.", async () => {
    const { one, other } = await two();
    await showShared(other);
    await ask(other, "from here", "demo:rate=300,tokens=300");
    await until(async () => (await asked(one)).length === 2);
    await Promise.all([finished(one), finished(other)]);
    assert.deepEqual(await asked(other), ["shared", "from here"]);
    assert.equal(words(await shownText(other)), 300);
    assert.equal(await shownText(one), await shownText(other));
  });

  test("A new title and the end of a conversation are seen, too.", async () => {
    const { one, other } = await two();
    await showShared(other);
    await one.getByRole("button", { name: "Rename shared" }).click();
    await one.locator("#sessions input").fill("Ours");
    await one.keyboard.press("Enter");
    await until(async () => (await other.locator("#title").textContent()) === "Ours");
    one.on("dialog", (dialog) => dialog.accept());
    await one.locator("#sessions li.current .tool").last().click();
    await until(async () => (await other.locator(".notice").count()) === 1);
    assert.equal(await other.locator(".notice").textContent(), "“Ours” was deleted elsewhere.");
    assert.deepEqual(await other.locator("#sessions .open").allTextContents(), ["own"]);
  });

  test("A page that was opened with the conversation needs no second connection.", async () => {
    const one = await fresh();
    await ask(one, "only", "demo:rate=0,tokens=5");
    await finished(one);
    const sockets = [];
    one.on("websocket", (socket) => sockets.push(socket));
    await one.reload();
    await finished(one);
    await one.waitForTimeout(200);
    assert.equal(sockets.length, 1);
    await one.click("#new");
    await one.locator("#sessions .open", { hasText: "only" }).click();
    await one.waitForTimeout(200);
    assert.equal(sockets.length, 1);
  });
});
