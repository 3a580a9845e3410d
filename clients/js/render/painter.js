/** Paints what has changed, once per frame, and no longer than a frame can bear. */

const BUDGET_MS = 8;
/** A window that is covered or drawn slowly may get no animation frame; what waits for a paint must not wait for one. */
const LATEST_MS = 150;

export class Painter {
  #dirty = new Set();
  #frame = 0; #timer = 0; #posted = false; #paused = false;
  #channel = new MessageChannel();

  /** @param {(painted: object[], ms: number) => void} onPaint what is called after each paint, with its duration */
  constructor(onPaint = () => {}) {
    this.onPaint = onPaint;
    this.#channel.port1.onmessage = () => { this.#posted = false; this.#paint(); };
    document.addEventListener("visibilitychange", () => this.#ask());
  }

  /** Has `paint(until)` of this called soon, and again while it says false. */
  add(paintable) {
    this.#dirty.add(paintable);
    this.#ask();
  }

  get paused() { return this.#paused; }

  /** While it is paused nothing is painted, and so nothing acknowledged. */
  set paused(paused) {
    this.#paused = paused;
    this.#ask();
  }

  /** A hidden page gets no frames, and its timers come as rarely as once a minute; a message to itself does come. */
  #ask() {
    if (!this.#dirty.size || this.#paused) return;
    if (document.hidden) this.#post();
    else {
      this.#frame ||= requestAnimationFrame(() => this.#paint());
      this.#timer ||= setTimeout(() => this.#paint(), LATEST_MS);
    }
  }

  #post() {
    if (this.#posted) return;
    this.#posted = true;
    this.#channel.port2.postMessage(null);
  }

  #paint() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = this.#timer = 0;
    if (this.#paused || !this.#dirty.size) return;
    const from = performance.now();
    const due = [...this.#dirty];
    this.#dirty.clear();
    for (const one of due) if (!one.paint(from + BUDGET_MS)) this.#dirty.add(one);
    this.onPaint(due, performance.now() - from);
    this.#ask();
  }
}
