import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { lexer } from "../vendor/marked/marked.esm.js";
import { decode } from "../render/entities.js";
import { FRAME, Segments } from "../render/segments.js";
import { soften } from "../render/soften.js";
import { safeLink } from "../render/tree.js";
import { DOCUMENTS, HOSTILE, LONG } from "../../../tests/browser/corpus.mjs";

/** The blocks that a text becomes, as it stands after these pieces. */
class Shown {
  segments = new Segments();
  done = [];

  write(text) {
    this.segments.append(text);
    while (this.segments.isFull) this.done.push(...this.segments.cut().map(plain));
  }

  rewind(length) {
    const undone = this.segments.rewind(length);
    this.done.length -= undone;
  }

  blocks(ended) { return [...this.done, ...this.segments.tail(ended).map(plain)]; }
}

const plain = ({ joins, tree }) => ({ joins, tree: tree() });
const textOf = (tree) => typeof tree === "string" ? tree : tree.children.map(textOf).join("");
const walk = (tree) => typeof tree === "string" ? [] : [tree, ...tree.children.flatMap(walk)];

function shown(pieces, ended = true) {
  const page = new Shown();
  for (const piece of pieces) page.write(piece);
  return page.blocks(ended);
}

function random(seed) {
  let state = seed;
  return (below) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor(state / 2147483648 * below);
  };
}

function inPieces(text, next, size) {
  const pieces = [];
  for (let at = 0; at < text.length;) pieces.push(text.slice(at, at += 1 + next(size)));
  return pieces;
}

const FRAGMENTS = ["# ", "\n", "\n\n", "- ", "1. ", "> ", "```", "~~~", "`", "**", "*", "_", "~~", "[", "](", ")", "https://a.b", "|", "|---|", "  ", "    ", "\t", "word ", "Wörter ", "<b>", "<!-- ", "-->", "&amp;", "\\", "===", "---", "\r\n", "!", "[x] ", "😀", "a"];

describe("segments", () => {
  for (const [name, text] of Object.entries(DOCUMENTS)) {
    test(`A text cut in two anywhere is shown like the whole: ${name}.`, () => {
      const whole = shown([text]);
      for (let cut = 1; cut < text.length; cut += 1) assert.deepEqual(shown([text.slice(0, cut), text.slice(cut)]), whole);
    });

    test(`Each moment of an answer looks the same, however it got there: ${name}.`, () => {
      const page = new Shown();
      for (let end = 1; end <= text.length; end += 1) {
        page.write(text[end - 1]);
        assert.deepEqual(page.blocks(false), shown([text.slice(0, end)], false));
      }
    });

    test(`What is shown is what marked makes of the whole: ${name}.`, () => {
      const kinds = lexer(text.replace(/\r\n/g, " \n").replace(/\r/g, "\n")).filter(({ type }) => type !== "space").length;
      assert.equal(shown([text]).length, kinds);
    });
  }

  for (const [name, text] of Object.entries(LONG)) {
    test(`A long text in random pieces is shown like the whole: ${name}.`, () => {
      const whole = shown([text]);
      const next = random(7);
      for (let run = 0; run < 8; run += 1) assert.deepEqual(shown(inPieces(text, next, 900)), whole);
    });

    test(`No letter of a long text is lost: ${name}.`, () => {
      const letters = (string) => string.replace(/https?:\S*|[^\p{L}\p{N}]/gu, "");
      const source = letters(text.replace(/&\w+;|&#x\w+;|```\w*|~~~ \w*|^\s*\d\. |\]\([^)]*\)/gmu, "").replace(/\[(?:x| )\] /g, ""));
      const found = letters(shown([text]).map(({ tree }) => walk(tree).some(({ attrs }) => attrs.class === "code") ? textOf(walk(tree).find(({ tag }) => tag === "code")) : textOf(tree)).join(""));
      if (name === "document" || name === "table") assert.ok(found.length > source.length * 0.9);
      else assert.equal(found, source);
    });
  }

  test("A long document is the blocks that marked finds in it, cut or not.", () => {
    const whole = lexer(LONG.document).filter(({ type }) => type !== "space").map(({ type }) => type);
    assert.equal(shown([LONG.document]).length, whole.length);
  });

  test("What is done is not looked at again.", () => {
    const page = new Shown();
    for (let at = 0; at < LONG.paragraph.length; at += 100) {
      page.write(LONG.paragraph.slice(at, at + 100));
      assert.ok(textOf(page.segments.tail(false).map(({ tree }) => tree())[0] ?? "").length <= FRAME);
    }
  });

  test("Random markdown in random pieces, rewound at random, is shown like what is left of it.", () => {
    for (let seed = 1; seed <= 150; seed += 1) {
      const next = random(seed);
      const long = seed % 5 === 0 ? 4_000 : 200;
      let text = "";
      const page = new Shown();
      for (let step = 0; step < 30; step += 1) {
        if (next(6) === 0) {
          text = text.slice(0, next(text.length + 1));
          page.rewind(text.length);
        } else {
          const piece = Array.from({ length: next(long / 10) }, () => FRAGMENTS[next(FRAGMENTS.length)]).join("");
          text += piece;
          page.write(piece);
        }
        assert.equal(page.segments.length, text.length);
        assert.deepEqual(page.blocks(step === 29), shown([text], step === 29), `seed ${seed}, step ${step}`);
      }
    }
  });

  test("Nothing hostile breaks it.", () => {
    for (const text of HOSTILE) assert.equal(shown([text]).length > 0, text.trim() !== "", text.slice(0, 12));
  });

  test("Code that is longer than a frame is one block, whose pieces join to the text.", () => {
    const [first, ...rest] = shown([LONG.code]);
    assert.ok(rest.filter(({ joins }) => joins === "line").length >= 3);
    const pieces = [first.tree, ...rest.filter(({ joins }) => joins).map(({ tree }) => tree)].map((tree) => textOf(walk(tree).find(({ attrs }) => attrs.class?.startsWith("piece"))));
    assert.equal(pieces.join("\n"), LONG.code.split("\n").slice(1, -2).join("\n"));
    assert.equal(textOf(rest.at(-1).tree), "after it");
  });

  test("A fence without an end is code at once, and says that it is open.", () => {
    const [block] = shown(["```py\nx = 1\ny"], false);
    const code = walk(block.tree).find(({ tag }) => tag === "code");
    assert.deepEqual([textOf(code), code.attrs], ["x = 1\ny", { "data-lang": "py", "data-open": "" }]);
    const closed = walk(shown(["```py\nx = 1\n```"], false)[0].tree).find(({ tag }) => tag === "code");
    assert.deepEqual(closed.attrs, { "data-lang": "py" });
  });
});

describe("links", () => {
  test("Only https and mailto can be clicked.", () => {
    assert.equal(safeLink("https://a.b/c d"), "https://a.b/c%20d");
    assert.equal(safeLink("mailto:a@b.c"), "mailto:a@b.c");
    for (const href of ["javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "&#106;avascript:alert(1)", "data:text/html,x", "vbscript:x", "http://a.b", "blob:https://a.b/c", "file:///etc/passwd", "//a.b", "/a", "#a", "", `https://${"a".repeat(3000)}`]) assert.equal(safeLink(href), null, href);
  });

  test("A link opens elsewhere, and tells nobody where it was.", () => {
    const [a] = walk(shown(["[x](https://a.b)"])[0].tree).filter(({ tag }) => tag === "a");
    assert.deepEqual(a.attrs, { href: "https://a.b/", rel: "noopener noreferrer nofollow", target: "_blank" });
  });

  test("An image is a link to it, and nothing else in any tree has an address.", () => {
    const trees = shown(["![alt](https://a.b/i.png?q=secret) <img src=https://a.b/j.png>"]).flatMap(({ tree }) => walk(tree));
    assert.deepEqual(trees.filter(({ attrs }) => "src" in attrs || attrs.style), []);
    assert.deepEqual(trees.filter(({ tag }) => tag === "a").map(({ attrs }) => attrs.class), ["image"]);
  });
});

describe("soften", () => {
  const cases = [
    ["**bo", "**bo**"], ["a *b", "a *b*"], ["**bold*", "**bold**"], ["x **", "x "], ["`co", "`co`"], ["``", ""],
    ["a [te](htt", "a te"], ["![alt](ht", ""], ["![al", ""], ["a **b `c", "a **b `c`**"], ["**b** c", "**b** c"],
    ["snake_case", "snake_case"], ["_it", "_it_"], ["5 * 3", "5 * 3"], ["**a *b*", "**a *b***"], ["~~de", "~~de~~"],
    ["`a`` b", "`a`` b`"], ["\\*a", "\\*a"], ["`**`", "`**`"], ["plain", "plain"],
  ];
  for (const [text, expected] of cases) {
    test(`The end of ${JSON.stringify(text)} is closed.`, () => assert.equal(soften(text), expected));
  }

  test("The end of an answer is shown as it was written.", () => {
    assert.deepEqual(shown(["**bo"], true)[0].tree.children, ["**bo"]);
    assert.equal(shown(["**bo"], false)[0].tree.children[0].tag, "strong");
  });
});

test("Character references are read, and what looks like one is left alone.", () => {
  assert.equal(decode("&lt;&#60;&#x3c; &amp;lt; &nope; & &#0; &#xD800; &__proto__; &constructor;"), "<<< &lt; &nope; & \ufffd \ufffd &__proto__; &constructor;");
});
