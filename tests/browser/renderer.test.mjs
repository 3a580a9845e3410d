/** The renderer in a real document: the same in pieces as in one, and deaf to whatever an answer wants of the page. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { DOCUMENTS, HOSTILE, LONG } from "./corpus.mjs";
import { launch, visit } from "./harness.mjs";
import { Server } from "./server.mjs";
import { ATTEMPTS } from "./xss.mjs";

describe("renderer", () => {
  let server, browser, page;
  before(async () => {
    server = await new Server().start();
    browser = await launch();
    page = await visit(browser, server.url);
    await page.evaluate(async () => {
      const { Renderer } = await import("/static/js/render/index.js");
      /** What stands in the document when these pieces have been painted one by one. */
      window.show = (pieces, { end = true, rewind = null } = {}) => {
        const element = document.createElement("div");
        document.body.append(element);
        const renderer = new Renderer(element);
        for (const piece of pieces) { renderer.write(piece); renderer.paint(); }
        if (rewind !== null) { renderer.rewind(rewind); renderer.paint(); }
        if (end) renderer.end();
        renderer.paint();
        const { innerHTML } = element;
        element.remove();
        return innerHTML;
      };
      window.everyCut = (text) => {
        const whole = window.show([text]);
        const wrong = [];
        for (let cut = 1; cut < text.length; cut += 1) if (window.show([text.slice(0, cut), text.slice(cut)]) !== whole) wrong.push(cut);
        if (window.show([...text]) !== whole) wrong.push("letters");
        return wrong;
      };
    });
  });
  after(async () => { await browser?.close(); await server?.end(); });

  test("At a pace, a word that comes after a pause is not shown at once.", async () => {
    const lengths = await page.evaluate(async () => {
      const { Renderer } = await import("/static/js/render/index.js");
      const real = performance.now;
      let now = 10_000;
      performance.now = () => now;
      try {
        const element = document.createElement("div");
        const renderer = Object.assign(new Renderer(element), { pace: 200 });
        renderer.write("first ");
        renderer.paint();
        now += 5_000;
        renderer.paint();
        renderer.write("unbelievable");
        return Array.from({ length: 4 }, () => { now += 16; renderer.paint(); return element.textContent.length; });
      } finally { performance.now = real; }
    });
    assert.ok(lengths[0] > 6 && lengths[0] < 18, lengths.join(" "));
    assert.equal(lengths.at(-1), 18);
  });

  for (const [name, text] of Object.entries(DOCUMENTS)) {
    test(`The document is the same wherever the text was cut: ${name}.`, async () => {
      assert.deepEqual(await page.evaluate((text) => window.everyCut(text), text), []);
    });
  }

  for (const [name, text] of Object.entries(LONG)) {
    test(`The document of a long text is the same in pieces of any size: ${name}.`, async () => {
      const same = await page.evaluate((text) => {
        const whole = window.show([text]);
        return [37, 613, 4095, 4096, 4097].filter((size) => window.show(text.match(new RegExp(`[\\s\\S]{1,${size}}`, "g"))) !== whole);
      }, text);
      assert.deepEqual(same, []);
    });
  }

  test("After a rewind stands what would stand had the rest never come.", async () => {
    const wrong = await page.evaluate(([texts]) => texts.flatMap((text) => [0, 1, 500, 4000, 4060, 4090, 4095, 4096, 5000, 9000].filter((length) => {
      const pieces = text.match(/[\s\S]{1,700}/g) ?? [];
      return window.show(pieces, { rewind: length }) !== window.show([text.slice(0, length)]);
    })), [Object.values(LONG)]);
    assert.deepEqual(wrong, []);
  });

  test("Nothing that is done is taken out of the document again.", async () => {
    const removed = await page.evaluate(async (text) => {
      const { Renderer } = await import("/static/js/render/index.js");
      const element = document.createElement("div");
      document.body.append(element);
      const renderer = new Renderer(element);
      const done = new Set();
      let removed = 0;
      for (let at = 0; at < text.length; at += 53) {
        renderer.write(text.slice(at, at + 53));
        renderer.paint();
        for (const node of done) if (!node.isConnected) removed += 1;
        for (const node of [...element.children].slice(0, -3)) done.add(node);
      }
      element.remove();
      return [removed, done.size > 20];
    }, LONG.document);
    assert.deepEqual(removed, [0, true]);
  });

  test("Colours change no letter, and go where the code goes.", async () => {
    const [before, after, spans] = await page.evaluate(async () => {
      const { Renderer, Highlighter } = await import("/static/js/render/index.js");
      const element = document.createElement("div");
      document.getElementById("messages").append(element);
      const renderer = new Renderer(element), highlighter = new Highlighter();
      renderer.onBlock = (node) => highlighter.look(node);
      renderer.write("```python\ndef f(x): return '<b>'  # <script>\n```\n");
      renderer.paint();
      const before = element.textContent;
      for (let tries = 0; tries < 100 && !element.querySelector(".hl-keyword"); tries += 1) await new Promise((resolve) => setTimeout(resolve, 50));
      renderer.write("\nand more");
      renderer.end();
      renderer.paint();
      const result = [before + "and more", element.textContent, element.querySelectorAll(".hl-keyword").length];
      element.remove();
      return result;
    });
    assert.equal(after, before);
    assert.ok(spans >= 2);
  });

  test("No attempt executes or loads anything, wherever it is cut, and none makes an element that is not allowed.", async () => {
    const asked = [];
    page.on("request", (request) => asked.push(request.url()));
    const found = await page.evaluate(async (attempts) => {
      const reports = [];
      document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => reports.push(`${violatedDirective} ${blockedURI}`));
      const unequal = attempts.filter((text) => window.everyCut(text).length);
      const element = document.createElement("div");
      document.body.append(element);
      const { Renderer } = await import("/static/js/render/index.js");
      const renderer = new Renderer(element);
      renderer.write(attempts.join("\n\n"));
      renderer.paint();
      await new Promise((resolve) => setTimeout(resolve, 300));
      const strange = [...element.querySelectorAll("*")].filter((node) => /^(script|img|svg|iframe|object|embed|style|link|form|input|video|audio|base|meta)$/i.test(node.localName)
        || [...node.attributes].some(({ name }) => /^on|^src|^style|^xlink|^formaction|^id$|^name$/i.test(name)) || (node.localName === "a" && !/^(https|mailto):/.test(node.href)));
      element.remove();
      return { hit: window.hit, reports, unequal, strange: strange.map((node) => node.outerHTML) };
    }, ATTEMPTS);
    assert.deepEqual(found, { hit: undefined, reports: [], unequal: [], strange: [] });
    assert.deepEqual(asked.filter((url) => !url.startsWith(server.url)), []);
    assert.deepEqual(page.faults, []);
    assert.ok(ATTEMPTS.length > 120);
  });

  test("The page's policy forbids every script to make HTML of text.", async () => {
    const response = await page.request.get(server.url);
    assert.match(response.headers()["content-security-policy"], /require-trusted-types-for 'script'; trusted-types 'none'/);
    assert.match(await page.evaluate(() => { try { document.createElement("div").innerHTML = "<b>x</b>"; return "allowed"; } catch (error) { return error.name; } }), /TypeError/);
  });

  test("What is hostile to a parser is shown.", async () => {
    const lengths = await page.evaluate((texts) => texts.map((text) => window.show([text]).length), HOSTILE);
    HOSTILE.forEach((text, at) => assert.equal(lengths[at] > 0, text.trim() !== ""));
  });
});
