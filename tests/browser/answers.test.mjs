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

  test("What a tool gave stands where it was called, as soon as somebody says it and after a reload.", async () => {
    const page = await fresh();
    await ask(page, "What now?");
    await finished(page);
    assert.equal(await page.locator(".gave").count(), 0);
    // Calls of the second answer have the same ids, and no results.
    await page.evaluate(async () => {
      const { StreamClient } = await import("/static/js/wsstream.js");
      const client = new StreamClient(location.origin.replace(/^http/, "ws") + "/ws", { sessionId: sessionStorage.getItem("wsstream.session") });
      client.connect();
      const calls = [["call_1", "look_up"], ["call_2", "listen"]].map(([id, name]) => ({ id, type: "function", function: { name, arguments: "{}" } }));
      await client.chat([
        { role: "user", content: "What now?" }, { role: "assistant", content: "What now?", tool_calls: calls },
        { role: "tool", tool_call_id: "call_1", content: '{"sky": "grey", "html": "<img src=x>"}' }, { role: "tool", tool_call_id: "call_2", content: "a *blackbird*" },
      ]).done;
      client.close();
    });
    const results = async () => {
      await unfold(page);
      return page.locator(".message").evaluateAll((all) => all.map((one) => [...one.querySelectorAll(".gave + pre")].map((pre) => pre.textContent)));
    };
    const wanted = [JSON.stringify({ sky: "grey", html: "<img src=x>" }, null, 2), "a *blackbird*"];
    await until(async () => (await page.locator(".message:not(.mine)").count()) === 2);
    await finished(page);
    await until(async () => (await results()).flat().length === 2);
    await page.reload();
    await until(async () => (await page.locator(".call").count()) === 4);
    assert.deepEqual((await results()).filter((given) => given.length), [wanted]);
    assert.equal((await results()).findLastIndex((given) => given.length), 1, "the first answer's, and no other");
    await shot(page, "results");
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

describe("an answer that is taken back in part", () => {
  const { fresh } = site("--provider", `${PROVIDER}:changing`, "--on-interrupt", "restart");

  test("What is withdrawn is gone at once; what stays is not touched, moved or drawn anew.", async () => {
    const page = await fresh();
    await ask(page, "Change your mind");
    await until(async () => /wrong, word by word/.test(await shownText(page)));
    // What stands before the part that will go, watched from one frame to the next.
    await page.evaluate(() => {
      const main = [...document.querySelectorAll(".message:not(.mine) .answer.main")].at(-1);
      const stays = [...main.children].filter((node) => !node.textContent.includes("wrong"));
      const place = () => stays.map((node) => node.isConnected && node.getBoundingClientRect().top - main.getBoundingClientRect().top).join();
      const watched = window.watched = { stays: stays.map((node) => node.outerHTML), changes: 0, places: new Set(), texts: [] };
      new MutationObserver((changes) => { watched.changes += changes.length; }).observe(stays[0], { childList: true, characterData: true, subtree: true, attributes: true });
      new MutationObserver((changes) => { watched.changes += changes.length; }).observe(stays[1], { childList: true, characterData: true, subtree: true, attributes: true });
      new MutationObserver((changes) => {
        for (const { removedNodes } of changes) if ([...removedNodes].some((node) => stays.includes(node))) watched.changes += 1;
      }).observe(main, { childList: true });
      const look = () => {
        watched.places.add(place());
        const last = main.textContent.slice(main.textContent.indexOf("This is"));
        if (watched.texts.at(-1) !== last) watched.texts.push(last);
        requestAnimationFrame(look);
      };
      look();
    });
    await shot(page, "before-rewind");
    await until(async () => !/wrong/.test(await shownText(page)));
    await shot(page, "at-rewind");
    await finished(page);
    await shot(page, "after-rewind");
    const seen = await page.evaluate(() => ({ ...window.watched, places: window.watched.places.size }));
    assert.deepEqual([seen.stays.length, seen.changes, seen.places], [2, 0, 1]);
    const turned = seen.texts.findIndex((text) => !text.includes("wrong"));
    assert.ok(turned > 0 && seen.texts.slice(turned).every((text) => !text.includes("wrong")), "withdrawn for good, in one frame");
    assert.ok(seen.texts.slice(turned).every((text) => "This is right, and there is less of it.".startsWith(text.trim())), seen.texts.slice(turned).join("|"));
    assert.match(await shownText(page), /What stays.*This is right, and there is less of it\./s);
    await page.reload();
    await until(async () => /less of it/.test(await shownText(page)));
    assert.doesNotMatch(await shownText(page), /wrong/);
  });
});

describe("a question that is too large", () => {
  const { fresh } = site();

  test("It is refused at once, in words, and the connection serves the next one.", async () => {
    const page = await fresh();
    await ask(page, "é".repeat(40_000));
    await until(async () => /Too large: 80\d\d\d bytes/.test(await note(page)));
    await finished(page);
    await ask(page, "hello", "demo:rate=0,tokens=20");
    await finished(page);
    assert.equal(words(await shownText(page)), 20);
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
