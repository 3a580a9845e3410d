/**
 * Colours code that is finished and near the viewport, when the page has nothing better to do. The library and each
 * language are loaded when the first block needs them. Its tree becomes elements; no HTML is made of it.
 */
import { dress, isDressed } from "./dom.js";

/** Written out, so that bundlers find them. */
const GRAMMARS = {
  bash: () => import("../vendor/highlight/languages/bash.min.js"),
  c: () => import("../vendor/highlight/languages/c.min.js"),
  cpp: () => import("../vendor/highlight/languages/cpp.min.js"),
  css: () => import("../vendor/highlight/languages/css.min.js"),
  diff: () => import("../vendor/highlight/languages/diff.min.js"),
  go: () => import("../vendor/highlight/languages/go.min.js"),
  java: () => import("../vendor/highlight/languages/java.min.js"),
  javascript: () => import("../vendor/highlight/languages/javascript.min.js"),
  json: () => import("../vendor/highlight/languages/json.min.js"),
  markdown: () => import("../vendor/highlight/languages/markdown.min.js"),
  python: () => import("../vendor/highlight/languages/python.min.js"),
  rust: () => import("../vendor/highlight/languages/rust.min.js"),
  sql: () => import("../vendor/highlight/languages/sql.min.js"),
  typescript: () => import("../vendor/highlight/languages/typescript.min.js"),
  xml: () => import("../vendor/highlight/languages/xml.min.js"),
  yaml: () => import("../vendor/highlight/languages/yaml.min.js"),
};
const NEAR = "600px";
const MAX_PIECE = 8192;
const MAX_TOKENS = 4000;
const LANGUAGES = new Map(Object.entries({
  bash: "bash", sh: "bash", shell: "bash", zsh: "bash", c: "c", h: "c", cpp: "cpp", "c++": "cpp", cc: "cpp", css: "css",
  diff: "diff", patch: "diff", go: "go", golang: "go", java: "java", javascript: "javascript", js: "javascript",
  jsx: "javascript", mjs: "javascript", json: "json", jsonc: "json", markdown: "markdown", md: "markdown",
  python: "python", py: "python", rust: "rust", rs: "rust", sql: "sql", typescript: "typescript", ts: "typescript",
  tsx: "typescript", xml: "xml", html: "xml", svg: "xml", yaml: "yaml", yml: "yaml",
}));
const idle = globalThis.requestIdleCallback ?? ((call) => setTimeout(call, 50));

let library = null;
const loaded = new Map();

async function load(name) {
  library ??= import("../vendor/highlight/core.min.js").then(({ default: core }) => core);
  const core = await library;
  if (!loaded.has(name)) loaded.set(name, GRAMMARS[name]().then((module) => core.registerLanguage(name, module.default)));
  await loaded.get(name);
  return core;
}

export class Highlighter {
  #queue = []; #waiting = false; #watched = new WeakSet();
  #near = new IntersectionObserver((entries) => this.#come(entries), { rootMargin: NEAR });

  /** Looks for finished code in a block that is new or has changed. */
  look(block) {
    // A piece is watched, not the block: a block may be many screens long.
    const code = block.closest?.("code") ?? block.querySelector?.("code[data-lang]");
    if (!code || "open" in code.dataset || !LANGUAGES.has(code.dataset.lang)) return;
    for (const piece of code === block.parentNode ? [block] : code.children) this.#watch(piece);
  }

  #watch(piece) {
    if (this.#watched.has(piece) || isDressed(piece)) return;
    this.#watched.add(piece);
    this.#near.observe(piece);
  }

  #come(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.#near.unobserve(target);
      this.#queue.push(target);
    }
    this.#next();
  }

  /** One piece a turn, so that no turn is long. */
  #next() {
    if (this.#waiting || !this.#queue.length) return;
    this.#waiting = true;
    idle(async () => {
      const piece = this.#queue.shift();
      this.#watched.delete(piece);
      try { await colour(piece); }
      catch (error) { console.warn("A block of code stays without colours:", error); }
      finally { this.#waiting = false; }
      this.#next();
    });
  }
}

async function colour(piece) {
  const code = piece.closest("code");
  const text = piece.textContent;
  if (!code || text.length > MAX_PIECE) return;
  const name = LANGUAGES.get(code.dataset.lang);
  const core = await load(name);
  // While the library was loading, the text may have been withdrawn.
  if (!piece.isConnected || piece.textContent !== text) return;
  const nodes = toNodes(core.highlight(text, { language: name, ignoreIllegals: true })._emitter.root);
  if (nodes) dress(piece, ...nodes);
}

/** @returns {Node[]|null} nothing where it would be too many elements */
function toNodes(root) {
  let left = MAX_TOKENS;
  const make = (one) => {
    left -= 1;
    if (typeof one === "string") return document.createTextNode(one);
    const span = document.createElement("span");
    if (one.scope) span.className = classOf(one.scope);
    if (left > 0) span.append(...one.children.map(make));
    return span;
  };
  const nodes = root.children.map(make);
  return left > 0 ? nodes : null;
}

function classOf(scope) {
  return `hl-${scope.split(/[.:]/)[0].replace(/[^\w-]/g, "")}`;
}
