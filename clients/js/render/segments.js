/**
 * Cuts growing markdown into blocks that are done and a tail that is not, so that every paint costs the same however
 * long the answer is.
 *
 * The text is looked at through a frame of `FRAME` characters. Only when the frame is full, blocks are taken out of it,
 * and only by what is inside it: what becomes of a text therefore depends on the text alone, never on the pieces it came
 * in. A block that fills the whole frame is cut: a list between items, a table between rows, code between lines, a
 * paragraph between sentences.
 */
import { Lexer } from "../vendor/marked/marked.esm.js";
import { soften } from "./soften.js";
import { codeBlock, makeTree, piece } from "./tree.js";

export const FRAME = 4096;
/** Deeper or denser than anything written for people, and slow or impossible for a recursive parser. */
const TOO_DEEP = /(?:^|\n)(?:[ \t]*(?:[-*+>]|\d{1,9}[.)])(?=[ \t>])){12}/;
const TOO_DENSE = 400;
const FENCE = /^( {0,3})(`{3,}|~{3,})([^\n]*)\n?/;
const PLAIN = { prefix: "", joins: "" };

/**
 * One block of the page. `joins` is set where it continues the code before it: at a new line, or within one.
 * @typedef {{key: string, joins: ""|"line"|"word", tree: () => import("./tree.js").Tree}} Block
 */

export class Segments {
  /** What was taken out: the source of each cut, how the frame began then, and how many blocks it gave. */
  #cuts = [];
  #tail = "";
  #mode = PLAIN;
  #done = 0;

  /** Length of all text, in UTF-16 units, as it was appended. */
  get length() { return this.#done + this.#tail.length; }

  append(text) { this.#tail += text; }

  get isFull() { return this.#tail.length >= FRAME; }

  /** Takes the blocks that are done out of one full frame. @returns {Block[]} */
  cut() {
    const { blocks, length, mode } = cutFrame(this.#tail.slice(0, FRAME), this.#mode);
    this.#cuts.push({ source: this.#tail.slice(0, length), mode: this.#mode, count: blocks.length });
    this.#tail = this.#tail.slice(length);
    this.#done += length;
    this.#mode = mode;
    return blocks;
  }

  /** What the tail looks like now. @param {boolean} ended nothing follows: what is open stays as it is written */
  tail(ended) {
    return toBlocks(lex(this.#mode.prefix + plain(this.#tail)), this.#mode.joins, !ended);
  }

  /** Withdraws the text behind `length`. @returns {number} how many blocks that were done are not any more */
  rewind(length) {
    let undone = 0;
    while (this.#cuts.length && this.#done - this.#cuts.at(-1).source.length + FRAME > length) {
      const { source, mode, count } = this.#cuts.pop();
      this.#tail = source + this.#tail;
      this.#done -= source.length;
      this.#mode = mode;
      undone += count;
    }
    this.#tail = this.#tail.slice(0, Math.max(0, length - this.#done));
    return undone;
  }
}

/** As long as the source, so that positions stay what they are. */
function plain(source) {
  return source.includes("\r") ? source.replace(/\r\n/g, " \n").replace(/\r/g, "\n") : source;
}

function lex(text) {
  if (TOO_DEEP.test(text)) return asItIs(text);
  const lexer = new Lexer();
  try { lexer.blockTokens(text, lexer.tokens); } catch (error) {
    if (error instanceof RangeError) return asItIs(text);
    throw error;
  }
  return { lexer, tokens: [...lexer.tokens], sources: new Map(lexer.inlineQueue.map(({ src, tokens }) => [tokens, src])) };
}

/** A text that no parser shall see. */
function asItIs(text) {
  return { lexer: new Lexer(), tokens: text ? [{ type: "html", raw: text, text, tokens: [] }] : [], sources: new Map() };
}

/** @returns {Block[]} */
function toBlocks(lexed, joins, running) {
  const softened = running ? lastInline(lexed) : null;
  const last = running ? lexed.tokens.at(-1) : null;
  const make = makeTree((token) => inlineTokens(lexed, token, softened));
  const blocks = lexed.tokens.map((token, at) => {
    const joined = at === 0 ? joins : "";
    return { key: `${token.type}${token === last ? "~" : ":"}${token.raw}`, joins: joined, tree: () => treeOf(token, token === last, joined, make) };
  });
  return blocks.filter((_, at) => lexed.tokens[at].type !== "space");
}

function treeOf(token, growing, joins, make) {
  if (joins) return piece(token.text ?? token.raw, joins);
  if (token.type === "code") return codeBlock(token.text, token.lang, growing && isOpen(token));
  return make([token.type === "text" ? { ...token, type: "paragraph" } : token])[0];
}

function inlineTokens({ lexer, sources }, token, softened) {
  const source = sources.get(token.tokens);
  if (source === undefined) return token.tokens ?? [];
  sources.delete(token.tokens);
  const shown = token.tokens === softened ? soften(source) : source;
  if (isDense(shown)) token.tokens.push({ type: "escape", raw: shown, text: shown });
  else lexInline(lexer, shown, token.tokens);
  return token.tokens;
}

function lexInline(lexer, source, tokens) {
  // What is defined elsewhere may lie in another frame: only links that stand in one place are links.
  lexer.tokens.links = Object.create(null);
  Object.assign(lexer.state, { inLink: false, inRawBlock: false });
  try { lexer.inlineTokens(source, tokens); } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    tokens.splice(0, Infinity, { type: "escape", raw: source, text: source });
  }
}

function isDense(source) {
  let found = 0;
  for (const character of source) if ("*_[]<`~!".includes(character)) found += 1;
  return found > TOO_DENSE;
}

/** The tokens of the innermost inline text at the very end, where something may be open. */
function lastInline({ tokens, sources }) {
  let at = tokens.at(-1);
  while (at) {
    if (sources.has(at.tokens)) return at.tokens;
    at = at.type === "table" ? (at.rows.at(-1) ?? at.header).findLast((cell) => cell.text) : (at.items ?? at.tokens)?.at(-1);
  }
  return null;
}

/** Whether a fence still waits for its other end. */
function isOpen(token) {
  const fence = FENCE.exec(token.raw);
  if (!fence || token.codeBlockStyle === "indented") return false;
  const rest = token.raw.slice(fence[0].length);
  return !new RegExp("(?:^|\\n) {0,3}" + fence[2] + "[~`]* *\\n?$").test(rest);
}

function cutFrame(frame, mode) {
  const { prefix, joins } = mode;
  const text = plain(frame);
  const lexed = lex(prefix + text);
  const ready = lexed.tokens.slice(0, -2);
  const taken = ready.reduce((sum, { raw }) => sum + raw.length, 0) - prefix.length;
  // Where the parser has changed what it consumed, its lengths say nothing about the source.
  if (taken > 0 && (prefix + text).startsWith(ready.map(({ raw }) => raw).join(""))) {
    lexed.tokens.length = ready.length;
    return { blocks: toBlocks(lexed, joins, false), length: taken, mode: PLAIN };
  }
  return cutInside(text, mode, lexed.tokens);
}

/** One block fills the frame. */
function cutInside(text, { prefix, joins }, [first, ...more]) {
  const length = placeToCut(text, first);
  const lexed = lex(prefix + text.slice(0, length));
  const blocks = toBlocks(lexed, joins, false);
  const joining = text[length - 1] === "\n" ? "line" : "word";
  return { blocks, length, mode: modeBehind(lexed.tokens.at(-1), joining, text.slice(length), more) };
}

function placeToCut(text, token) {
  if (token.type === "list" && token.items.length > 2) {
    const length = token.items.slice(0, -2).reduce((sum, { raw }) => sum + raw.length, 0);
    if (text.startsWith(token.items[0].raw) && text[length - 1] === "\n") return length;
  }
  if (token.type !== "paragraph") {
    const line = text.lastIndexOf("\n") + 1;
    if (line > text.length / 4) return line;
  }
  return betweenSentences(text);
}

/** Before a letter, so that the rest does not look like the start of a list or a quotation. */
function betweenSentences(text) {
  const from = Math.floor(text.length * 3 / 4);
  const last = text.slice(from);
  for (const boundary of [/[.!?…]["')\]]?\s+(?=\p{L})/gu, /[。！？]|\s(?=\p{L})/gu, /(?=\p{L})/gu]) {
    const found = [...last.matchAll(boundary)].at(-1);
    if (found && from + found.index + found[0].length < text.length) return from + found.index + found[0].length;
  }
  return text.length - (/[\ud800-\udbff]$/.test(text) ? 1 : 0);
}

/** How the rest has to be read: as more of the code or table that was cut. */
function modeBehind(last, joining, rest, more) {
  if (last?.type === "code" && isOpen(last)) {
    const [, indent, fence, info] = FENCE.exec(last.raw);
    return { prefix: `${indent}${fence}${info}\n`, joins: joining };
  }
  if (last?.type === "table" && !more.length && rest && !rest.startsWith("\n")) {
    return { prefix: last.raw.split("\n", 2).join("\n") + "\n", joins: "" };
  }
  return PLAIN;
}
