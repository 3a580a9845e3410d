/**
 * Turns marked's tokens into plain trees of what may be shown: `{tag, attrs, children}` and strings. Everything that is
 * not named here becomes text, raw HTML first of all. There is no way from an answer to an attribute but `safeLink`.
 *
 * @typedef {string | {tag: string, attrs: Record<string, string>, children: Tree[]}} Tree
 */
import { decode } from "./entities.js";

const LINK_PROTOCOLS = new Set(["https:", "mailto:"]);
const MAX_LINK = 2048;
const LANGUAGE = /^[\w+#.-]{1,30}/;
const LINE_BREAK = /^<br\s*\/?>$/i;

/** @type {(tag: string, children?: Tree[], attrs?: Record<string, string>) => Tree} */
const node = (tag, children = [], attrs = {}) => ({ tag, attrs, children });

/**
 * The address as the browser will read it, if it is one that may be clicked.
 * @param {string} href @returns {string|null}
 */
export function safeLink(href) {
  if (href.length > MAX_LINK) return null;
  let url;
  try { url = new URL(decode(href)); } catch { return null; }
  return LINK_PROTOCOLS.has(url.protocol) ? url.href : null;
}

/** Makes trees of block tokens. @param {(token: object) => object[]} inlineOf the tokens inside one token */
export function makeTree(inlineOf) {
  const inline = (token) => merge(inlineOf(token).flatMap((one) => (INLINE[one.type] ?? raw)(one, inline)));
  const blocks = (tokens) => tokens.flatMap((one) => BLOCKS[one.type] ? BLOCKS[one.type](one, { inline, blocks }) : raw(one));
  return blocks;
}

const raw = ({ raw }) => [raw];
const literal = ({ text }) => [text];
const written = ({ text }) => [decode(text)];

const BLOCKS = {
  space: () => [],
  heading: (token, { inline }) => [node(`h${Math.min(6, token.depth + 1)}`, inline(token))],
  paragraph: (token, { inline }) => [node("p", inline(token))],
  text: (token, { inline }) => inline(token),
  blockquote: (token, { blocks }) => [node("blockquote", blocks(token.tokens))],
  hr: () => [node("hr")],
  code: ({ text, lang }) => [codeBlock(text, lang)],
  html: ({ text }) => [node("p", [text.replace(/\n+$/, "")], { class: "markup" })],
  def: ({ raw }) => [node("p", [raw])],
  list: listOf,
  table: tableOf,
  checkbox: ({ checked }) => [checked ? "☑ " : "☐ "],
};

const INLINE = {
  text: (token, inline) => token.tokens ? inline(token) : written(token),
  escape: literal,
  strong: (token, inline) => [node("strong", inline(token))],
  em: (token, inline) => [node("em", inline(token))],
  del: (token, inline) => [node("del", inline(token))],
  codespan: ({ text }) => [node("code", [text])],
  br: () => [node("br")],
  html: (token) => LINE_BREAK.test(token.raw) ? [node("br")] : [token.raw],
  link: (token, inline) => linkTo(token.href, inline(token)),
  image: ({ href, text }) => linkTo(href, [`Image: ${decode(text) || "no words for it"}`], "image"),
  checkbox: ({ checked }) => [checked ? "☑ " : "☐ "],
};

/** Nothing is loaded for an answer: an image is a link to it. What may not be clicked is only its words. */
function linkTo(href, children, kind = "") {
  const safe = safeLink(href);
  if (!safe) return children;
  const attrs = { href: safe, rel: "noopener noreferrer nofollow", target: "_blank" };
  return [node("a", children.length ? children : [safe], kind ? { ...attrs, class: kind } : attrs)];
}

/** The block that a fence or an indent makes. @param {boolean} open its end has not come yet */
export function codeBlock(text, lang = "", open = false) {
  const language = LANGUAGE.exec((lang ?? "").trim())?.[0].toLowerCase() ?? "";
  const head = node("div", [node("span", [language || "text"]), node("button", ["Copy"], { type: "button", class: "copy" })], { class: "code-head" });
  const code = node("code", [piece(text, "line")], { "data-lang": language, ...(open ? { "data-open": "" } : {}) });
  const label = language ? `Code, ${language}` : "Code";
  return node("div", [head, node("pre", [code], { tabindex: "0", role: "region", "aria-label": label })], { class: "code" });
}

/** Some lines of a code block. @param {"line"|"word"} joins whether it begins a line */
export function piece(text, joins) {
  return node("span", text ? [text] : [], { class: joins === "word" ? "piece glued" : "piece" });
}

function listOf(token, { blocks }) {
  const items = token.items.map((item) => node("li", blocks(item.tokens), item.task ? { class: "task" } : {}));
  const start = token.ordered && Number.isSafeInteger(token.start) && token.start !== 1 ? { start: String(token.start) } : {};
  return [node(token.ordered ? "ol" : "ul", items, start)];
}

function tableOf(token, { inline }) {
  const cell = (tag) => (one, column) => {
    const align = token.align[column];
    return node(tag, inline(one), align ? { class: `to-${align}` } : {});
  };
  const head = node("thead", [node("tr", token.header.map(cell("th")))]);
  const body = node("tbody", token.rows.map((row) => node("tr", row.map(cell("td")))));
  return [node("div", [node("table", token.rows.length ? [head, body] : [head])], { class: "table", tabindex: "0", role: "region", "aria-label": "Table" })];
}

/** Neighbouring texts become one, as the DOM would have it. @param {Tree[]} trees */
function merge(trees) {
  const merged = [];
  for (const one of trees) {
    if (one === "") continue;
    if (typeof one === "string" && typeof merged.at(-1) === "string") merged.push(merged.pop() + one);
    else merged.push(one);
  }
  return merged;
}
