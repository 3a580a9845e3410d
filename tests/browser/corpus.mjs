/** Markdown as models write it, and as nobody should. */
export const DOCUMENTS = {
  everything: `# Title with *emphasis*

A paragraph with **bold**, _italic_, ~~gone~~, \`code\`, a [link](https://example.org/a?b=1&amp;c=2 "title") and https://bare.example/x.
A second line  
after a hard break, and \\*escaped\\* &lt;entities&gt; &copy; &#x1F600; &unknown;.

Setext
======

- one
- two **bold
  still** two
  - nested \`a\`
    1. deeper
- [x] done
- [ ] open

3. three

   a paragraph in three
4. four

> quoted *text*
> > twice
>
> - a list in it

| left | middle | right |
|:-----|:------:|------:|
| \`a\` | **b** | c \\| d |
| 1 | 2 |

\`\`\`python
def f(x: int) -> str:
    return f"<b>{x}</b>"  # \`\`\`
\`\`\`

~~~
tildes
~~~

    indented code

    goes on

---

<div class="x">raw <b>html</b></div>

text with <b>inline</b><br>html, ![image](https://example.org/i.png) and ![](relative.png)

[ref]: https://example.org/ref
See [ref] and [text][ref].

The end 👩‍👩‍👧 日本語。`,
  unfinished: "Half **bold and `code and [link](https://exam",
  fence: "before\n\n```js\nconst a = `x`;\n\n\n// no end\n\nstill code\n",
  windows: "# a\r\n\r\ntext\r\nmore\r\n\r\n```\r\ncode\r\n```\r\nend\r",
  tables: "| a |\n|---|\n| b |\n\nnot | a | table\n\n| c | d |\n|---|---|\n| **e | f** |\ntail",
  lists: "- a\n\n- b\n\n  c\n\n\n- d\n* other\n* list\n1) x\n2) y\n- \n- z\n\n      code in list\n\nend",
  quotes: "> a\nlazy\n\n> b\n\n\n>c\n> ```\n> code\n> ```\nend",
  ticks: "` `` ``` `a`` ``b` ``` c\n\n``a`b`` ```x``` `",
  stars: "*a **b* c** ***d*** * e * **f*** _g__h_ __i__ a_b_c *",
  links: "[a](b) [c](<d e>) [f](javascript:alert(1)) [g]( https://h.i ) ![j][k] <https://l.m> <n@o.p> www.q.r [s](mailto:t@u.v) [[x](https://y.z)](https://a.b)",
  empty: "\n\n  \n\n",
  surrogates: "a😀b😀\n\n😀😀",
};

const repeat = (text, size) => text.repeat(Math.ceil(size / text.length)).slice(0, size);
/** Each fills more than one frame with a single block, or with many. */
export const LONG = {
  document: repeat(`${DOCUMENTS.everything}\n\n`, 20_000),
  paragraph: repeat("A sentence of some words - and *more* of them. 2 of it! ", 15_000),
  word: repeat("abcdefghij", 10_000),
  cjk: repeat("日本語の文章です。とても長い。", 10_000),
  emoji: repeat("😀", 10_001),
  code: `\`\`\`python\n${repeat("def f(x):\n    return x  # `` \n\n", 15_000)}\n\`\`\`\nafter *it*`,
  oneLineOfCode: `\`\`\`\n${repeat("abc ", 9_000)}\n\`\`\`\nend`,
  openCode: `text\n\n~~~ js\n${repeat("let a = 1;\n", 12_000)}`,
  list: repeat("1. an item with **bold** text\n2. another\n   - inside\n", 14_000),
  giantItem: `- ${repeat("words of one item ", 9_000)}\n- next`,
  table: `| a | b |\n|---|:-:|\n${repeat("| cell *one* | cell two |\n", 12_000)}\nbehind`,
  quote: repeat("> a quoted line\n", 12_000),
  spaces: `${repeat(" ", 6_000)}x${repeat("\n", 6_000)}y`,
  heading: `# ${repeat("heading ", 9_000)}`,
  html: `<div>\n${repeat("<p>raw</p>\n", 9_000)}</div>`,
};

/** What takes a careless parser seconds, or its stack. */
export const HOSTILE = [
  "[", "*a ", "`", "- ", "> ", "![", "<a ", "_a*", "\n- a", "a@", "\\", "1) ", "<!--", "[a](", "~~a", "[a]: ", "*", "**a",
  "| a ", "&amp;", "https://a.", " \t", "<div>\n", "[](", "![a](b", "<", "~", "_", "a_", "*_", "`a", "```\n", "- - ", ">\n", "*a_b",
].map((text) => repeat(text, 8_000));
