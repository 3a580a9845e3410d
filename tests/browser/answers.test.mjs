/** What answers bring besides text, how fast they come, and why one waits for them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { answer, ask, finished, letters, shot, shownText, site, until, words } from "./harness.mjs";

const note = (page) => answer(page).locator(".note").textContent();
const PROVIDER = "tests.browser.provider";

describe("thoughts and tool calls", () => {
  const { fresh } = site("--provider", `${PROVIDER}:thoughtful`);
  const extras = async (page) => ({
    thoughts: (await page.locator(".thoughts .answer").allInnerTexts()).map((text) => text.trim()),
    calls: await page.locator(".call summary").allTextContents(),
    made: await page.locator(".call pre").allTextContents(),
  });
  const WANTED = {
    thoughts: ["First I think."], calls: ["Calls look_up", "Calls listen"],
    made: [JSON.stringify(JSON.parse('{"city": "Ulm", "__proto__": {"polluted": 1}}'), null, 2), ""],
  };
  const unfold = (page) => page.locator("details").evaluateAll((all) => { for (const one of all) one.open = true; });

  test("Thoughts are folded, each tool call is one block, and all look like what they are.", async () => {
    const page = await fresh();
    await ask(page, "So **be** it <img src=x onerror=alert(1)>");
    await finished(page);
    assert.equal(await page.locator(".thoughts").getAttribute("open"), null);
    await page.locator(".thoughts summary").click();
    assert.equal((await page.locator(".thoughts .answer").innerHTML()).trim(), "<p>First I <em>think</em>. </p>");
    await unfold(page);
    assert.deepEqual(await extras(page), WANTED);
    assert.equal(await shownText(page), "So be it <img src=x onerror=alert(1)>");
    assert.equal(await page.evaluate(() => ({}).polluted), undefined);
    await shot(page, "thoughts");
  });

  test("A reload in the middle of the answer keeps them, and one after its end as well.", async () => {
    const page = await fresh();
    await ask(page, "slowly does it");
    await until(async () => (await letters(page)) > 100);
    await page.reload();
    await until(async () => (await letters(page)) > 100);
    await unfold(page);
    assert.deepEqual(await extras(page), WANTED);
    await page.click("#send");
    await finished(page);
    assert.deepEqual(await extras(page), WANTED);
    const said = await shownText(page);
    await page.reload();
    await until(async () => (await page.locator(".call").count()) === 2);
    await unfold(page);
    assert.deepEqual(await extras(page), WANTED);
    assert.match(await note(page), /Stopped/);
    assert.equal(await shownText(page), said);
  });
});

describe("thoughts and tool calls without a log", () => {
  const { fresh } = site("--provider", `${PROVIDER}:thoughtful`, "--max-retained", "1");

  test("The history has them still.", async () => {
    const page = await fresh();
    for (const text of ["one", "two", "three"]) {
      await ask(page, text);
      await finished(page);
    }
    await page.reload();
    await until(async () => (await page.locator(".call").count()) === 6);
    await page.locator("details").evaluateAll((all) => { for (const one of all) one.open = true; });
    await until(async () => (await page.locator(".thoughts .answer").allInnerTexts()).every((text) => text.trim() === "First I think."));
    assert.equal(await page.locator(".thoughts").count(), 3);
    assert.deepEqual(await page.locator(".message:not(.mine) .answer.main").allInnerTexts(), ["one", "two", "three"]);
  });
});

describe("waiting", () => {
  const { fresh } = site("--provider", `${PROVIDER}:stumbling`);

  test("The page says why one waits, and nothing of it when the answer is there.", async () => {
    const page = await fresh();
    await ask(page, "Where is it?");
    await until(async () => (await note(page)) === "Rate limited, trying again in 1 s");
    await shot(page, "waiting");
    await until(async () => (await note(page)) === "Trying again in 1 s");
    await finished(page);
    assert.equal(await shownText(page), "There it is.");
    assert.doesNotMatch(await note(page), /again|limited/);
  });
});

describe("pace", () => {
  const { fresh } = site();
  const slide = (page, id, value) => page.locator(id).evaluate((slider, value) => { slider.value = value; slider.dispatchEvent(new Event("input")); }, value);

  test("The sliders say what is asked for, up to five thousand tokens a second, and that comes.", async () => {
    const page = await fresh();
    await page.click("#show-drawer");
    await slide(page, "#rate", 0);
    assert.equal(await page.locator("#rate-shown").textContent(), "10");
    await slide(page, "#rate", 100);
    assert.equal(await page.locator("#rate-shown").textContent(), "5,000");
    await slide(page, "#tokens", 67);
    const tokens = Number((await page.locator("#tokens-shown").textContent()).replace(",", ""));
    await page.click("#flood");
    await finished(page, 30_000);
    assert.equal(words(await shownText(page)), tokens);
    const [, rate] = /([\d,]+) tokens\/s/.exec(await note(page));
    // How fast it was is the machine's affair; that it was not the slow end of the slider, the page's.
    assert.ok(Number(rate.replace(",", "")) > 500, rate);
  });

  test("Letters come one by one where that is wished for, and in the end all are there.", async () => {
    const page = await fresh();
    await page.click("#show-drawer");
    await page.check("#typewriter");
    await page.evaluate(() => {
      window.jumps = [];
      let before = 0;
      new MutationObserver(() => {
        const now = document.querySelector(".answer.main")?.textContent.length ?? 0;
        if (now !== before) window.jumps.push(now - before);
        before = now;
      }).observe(document.getElementById("messages"), { subtree: true, childList: true, characterData: true });
    });
    await ask(page, "go", "demo:rate=0,tokens=40");
    await finished(page);
    assert.equal(words(await shownText(page)), 40);
    // All of it comes at once; however slow the frames are, a paint shows at most a tenth of a second's letters, or what
    // catches up with so much.
    const jumps = await page.evaluate(() => window.jumps);
    assert.ok(Math.max(...jumps) <= 45 && jumps.length >= 5, jumps.join(" "));
  });
});

describe("models", () => {
  const { fresh } = site("--provider", `${PROVIDER}:thoughtful`);

  test("Where somebody else answers, the demo is still there to play with.", async () => {
    const page = await fresh();
    await until(() => page.locator("#provider").isVisible());
    assert.deepEqual((await page.locator("#provider option").allTextContents()).slice(0, 2), [`${PROVIDER}:thoughtful`, "demo"]);
    assert.equal(await page.inputValue("#model"), "");
    await ask(page, "me");
    await finished(page);
    assert.equal(await shownText(page), "me");
    await page.selectOption("#provider", "demo");
    assert.equal(await page.inputValue("#model"), "demo");
    assert.ok((await page.locator("#models option").evaluateAll((all) => all.map(({ value }) => value))).includes("demo:rate=5000,tokens=100000"));
    await ask(page, "How does a credit window work?");
    await finished(page);
    assert.match(await shownText(page), /chunk_ack/);
    await page.click("#new");
    await page.locator("#starters button").last().click();
    await until(async () => (await letters(page)) > 200);
    await page.click("#send");
    await finished(page);
  });
});
