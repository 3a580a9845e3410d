/** Stays at the end while the reader is there, and leaves those alone who have scrolled away. */
import { $ } from "./elements.js";

const NEAR = 80;

export class Scrolling {
  #atEnd = true;

  constructor(node) {
    this.node = node;
    node.addEventListener("scroll", () => this.#look(), { passive: true });
    $("to-end").addEventListener("click", () => {
      // The button is about to go, and the focus with it.
      node.focus();
      this.toEnd();
    });
    new ResizeObserver(() => this.follow()).observe(node);
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.node;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    $("to-end").hidden = this.#atEnd;
  }

  follow() { if (this.#atEnd) this.node.scrollTop = this.node.scrollHeight; }

  toEnd() {
    this.#atEnd = true;
    this.follow();
  }
}
