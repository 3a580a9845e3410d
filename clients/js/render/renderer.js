/** Shows one growing text in one element. */
import { create, patch } from "./dom.js";
import { Segments } from "./segments.js";

/** An answer that waits longer than this for its letters is caught up with, whatever the pace. */
const CATCH_UP_MS = 600;
const FRAME_MS = 16;

export class Renderer {
  #element; #segments = new Segments();
  /** What stands in the element: `done` blocks that stay, and the tail. */
  #shown = []; #done = 0;
  /** Text that has come and is not laid out, and what to tell of it: `[length, chunk id]`. */
  #waiting = ""; #marks = []; #length = 0;
  #ended = false; #stale = true; #paidAt = 0;
  /** Characters a second; 0 shows everything at once. */
  pace = 0;
  /** The last chunk whose text stands in the document. */
  rendered = 0;

  /** @param {Element} element */
  constructor(element) { this.#element = element; }

  /** Called with the node of each block that is new or has changed. @type {(node: Node) => void} */
  onBlock = () => {};

  /** Length of the text that was written. */
  get length() { return this.#length; }

  /** More of the text. @param {number} [chunkId] the chunk that this piece ends */
  write(text, chunkId = 0) {
    // Time in which there was nothing to show gives no letters.
    if (this.pace && !this.#waiting) this.#paidAt = performance.now() - FRAME_MS;
    this.#waiting += text;
    this.#length += text.length;
    if (chunkId) this.#marks.push([this.#length, chunkId]);
    this.#stale = true;
  }

  /** Withdraws the text behind `length`. */
  rewind(length) {
    const shown = this.#length - this.#waiting.length;
    if (length < this.#length) this.#waiting = this.#waiting.slice(0, Math.max(0, length - shown));
    if (length < shown) this.#done -= this.#segments.rewind(length);
    this.#length = Math.min(this.#length, length);
    this.#marks = this.#marks.filter(([end]) => end <= this.#length);
    this.#stale = true;
  }

  /** Nothing follows. */
  end() { this.#ended = this.#stale = true; }

  /**
   * Brings the element up to date.
   * @param {number} until when to stop, in `performance.now()`'s milliseconds, with at least one step done
   * @returns {boolean} whether everything stands there
   */
  paint(until = Infinity) {
    if (!this.#stale) return true;
    this.#release();
    while (this.#segments.isFull) {
      this.#place(this.#segments.cut(), true);
      if (performance.now() > until && this.#segments.isFull) return false;
    }
    this.#place(this.#segments.tail(this.#ended && !this.#waiting), false);
    this.#told();
    this.#stale = this.#waiting.length > 0;
    return !this.#stale;
  }

  /** Lets as much text through as the pace allows, and never falls behind for long. */
  #release() {
    const now = performance.now();
    const passed = Math.min(100, now - this.#paidAt);
    const due = this.pace ? Math.ceil(Math.max(this.pace * passed / 1000, this.#waiting.length * passed / CATCH_UP_MS)) : Infinity;
    this.#paidAt = now;
    const end = due < this.#waiting.length ? wholeCharacter(this.#waiting, due) : this.#waiting.length;
    this.#segments.append(this.#waiting.slice(0, end));
    this.#waiting = this.#waiting.slice(end);
  }

  #told() {
    const shown = this.#length - this.#waiting.length;
    let told = 0;
    while (told < this.#marks.length && this.#marks[told][0] <= shown) this.rendered = this.#marks[told++][1];
    this.#marks.splice(0, told);
  }

  /** Blocks from the first one that is not done. @param {boolean} done they stay */
  #place(blocks, done) {
    blocks.forEach((block, at) => this.#put(this.#done + at, block));
    if (done) this.#done += blocks.length;
    else this.#drop(this.#done + blocks.length);
  }

  #put(at, { key, joins, tree }) {
    const old = this.#shown[at];
    if (old?.key === key && old.joins === joins) return;
    if (old && !old.joins === !joins) return this.#change(old, key, joins, tree());
    this.#drop(at);
    this.#add({ key, joins, tree: tree() });
  }

  #change(entry, key, joins, tree) {
    entry.node = patch(entry.node, entry.tree, tree);
    Object.assign(entry, { key, joins, tree });
    this.onBlock(entry.node);
  }

  /** Code that goes on is put into the block it continues. */
  #add(entry) {
    entry.node = create(entry.tree);
    const before = entry.joins && this.#shown.findLast(({ joins }) => !joins);
    (before ? before.node.querySelector("code") : this.#element).append(entry.node);
    this.#shown.push(entry);
    this.onBlock(entry.node);
  }

  #drop(from) {
    for (const { node } of this.#shown.splice(from)) node.remove();
  }
}

/** Not between the halves of a surrogate pair. */
function wholeCharacter(text, end) {
  const code = text.charCodeAt(end - 1);
  return code >= 0xd800 && code <= 0xdbff ? end + 1 : end;
}
