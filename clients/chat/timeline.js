/** The last ten seconds of the wire, drawn. */
import { passing } from "./wire.js";

const SECONDS = 10;
const BUCKET_MS = 50;
const BUCKETS = SECONDS * 1000 / BUCKET_MS;

/** A ring of counts, one for each bucket of time. */
class Lane {
  #counts = new Float64Array(BUCKETS); #newest = 0;

  add(count) {
    this.#turn();
    this.#counts[this.#newest % BUCKETS] += count;
  }

  /** @returns {number[]} oldest first */
  read() {
    this.#turn();
    return Array.from({ length: BUCKETS }, (_, at) => this.#counts[(this.#newest + 1 + at) % BUCKETS]);
  }

  #turn() {
    const now = Math.floor(performance.now() / BUCKET_MS);
    const from = Math.max(this.#newest + 1, now - BUCKETS + 1);
    for (let at = from; at <= now; at += 1) this.#counts[at % BUCKETS] = 0;
    this.#newest = Math.max(now, this.#newest);
  }
}

export class Timeline {
  #came = new Lane(); #acked = new Lane(); #lost = new Lane();

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    passing.addEventListener("came", ({ detail }) => this.#came.add(detail.chunks ?? 1));
    passing.addEventListener("acked", () => this.#acked.add(1));
    passing.addEventListener("lost", () => this.#lost.add(1));
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale)) Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const middle = Math.round(height * .62);
    this.#lines(context, width, height, colour("--line"));
    this.#bars(context, this.#came.read(), { width, base: middle, tall: middle - 8, fill: colour("--accent") });
    this.#bars(context, this.#acked.read(), { width, base: middle + 4, tall: -(height - middle - 10), fill: colour("--hl-name") });
    this.#bars(context, this.#lost.read(), { width, base: height, tall: height, fill: colour("--bad") });
  }

  #lines(context, width, height, fill) {
    context.fillStyle = fill;
    for (let second = 1; second < SECONDS; second += 1) context.fillRect(Math.round(width * second / SECONDS), 0, 1, height);
  }

  /** Bars grow up from the base where `tall` is positive, down where it is not. */
  #bars(context, values, { width, base, tall, fill }) {
    const most = Math.max(1, ...values);
    const step = width / BUCKETS;
    context.fillStyle = fill;
    values.forEach((value, at) => {
      if (value) context.fillRect(at * step, base, Math.max(1, step - .3), -tall * Math.sqrt(value / most));
    });
  }
}
