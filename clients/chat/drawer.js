/** Makes what happens on the wire visible, and lets one disturb it. */
import { $, say } from "./elements.js";
import { pace, painter } from "./paint.js";
import { Timeline } from "./timeline.js";
import { goOffline, passing, WINDOW } from "./wire.js";
import { count, milliseconds } from "./words.js";

const REFRESH_MS = 100;
const RATE_OVER_MS = 2_000;
const LETTERS_PER_SECOND = 240;
const PAINTS = 120;
/** As in drawer.css. */
const narrow = matchMedia("(max-width: 72rem)");

/** A slider's 0…100 to a number between two, evenly in powers of ten, in round figures. */
function power(value, least, most) {
  const exact = least * (most / least) ** (value / 100);
  const digit = 10 ** Math.max(0, Math.floor(Math.log10(exact)) - 1);
  return Math.round(exact / digit) * digit;
}

export class Drawer {
  #timeline = new Timeline($("timeline")); #timer = 0;
  #arrivals = []; #paints = []; #seenAt = new Map(); #ackWait = 0;

  /** @param {{flood: (model: string, words: string) => void, stream: () => object|null, frozen: () => void}} acts */
  constructor(client, acts) {
    this.client = client;
    this.acts = acts;
    $("show-drawer").addEventListener("click", () => this.toggle());
    $("hide-drawer").addEventListener("click", () => this.toggle());
    $("drop").addEventListener("click", () => client.drop());
    $("offline").addEventListener("click", () => goOffline(client));
    $("freeze").addEventListener("click", () => this.#freeze());
    $("kill").addEventListener("click", () => location.reload());
    $("typewriter").addEventListener("change", () => { pace.lettersPerSecond = $("typewriter").checked ? LETTERS_PER_SECOND : 0; });
    for (const id of ["rate", "tokens"]) $(id).addEventListener("input", () => this.#slide());
    $("flood").addEventListener("click", () => this.#flood());
    passing.addEventListener("came", ({ detail }) => this.#came(detail));
    passing.addEventListener("acked", ({ detail }) => this.#acked(detail));
    painter.onPaint = (_, ms) => { this.#paints.push(ms); if (this.#paints.length > PAINTS) this.#paints.shift(); };
    this.#slide();
  }

  toggle({ focus = true } = {}) {
    const hidden = !$("drawer").hidden;
    $("drawer").hidden = hidden;
    $("show-drawer").setAttribute("aria-expanded", String(!hidden));
    clearInterval(this.#timer);
    if (hidden) return $("show-drawer").focus();
    this.#timer = setInterval(() => this.#draw(), REFRESH_MS);
    this.#draw();
    if (this.client.state === "connected") this.client.probe();
    if (focus) $("hide-drawer").focus();
  }

  get isOpen() { return !$("drawer").hidden; }
  /** Whether it lies over the answer where it is open. */
  get covers() { return narrow.matches; }
  set running(running) { $("flood").setAttribute("aria-disabled", String(running)); }
  get #rate() { return power(Number($("rate").value), 10, 5_000); }
  get #tokens() { return power(Number($("tokens").value), 100, 100_000); }

  #slide() {
    say($("rate-shown"), count(this.#rate));
    say($("tokens-shown"), count(this.#tokens));
  }

  #flood() {
    this.acts.flood(`demo:rate=${this.#rate},tokens=${this.#tokens}`, `${count(this.#tokens)} tokens at ${count(this.#rate)} a second`);
  }

  thaw() { if (painter.paused) this.#freeze(); }

  #freeze() {
    painter.paused = !painter.paused;
    $("freeze").classList.toggle("on", painter.paused);
    $("freeze").textContent = painter.paused ? "Let it go on" : "Freeze reader";
    this.acts.frozen();
  }

  #came({ stream, chunks }) {
    const now = performance.now();
    this.#arrivals.push([now, chunks]);
    while (this.#arrivals.length && this.#arrivals[0][0] < now - RATE_OVER_MS) this.#arrivals.shift();
    const { streamId } = stream.info;
    if (!this.#seenAt.has(streamId)) this.#seenAt.set(streamId, now);
  }

  /** From the first piece that was not acknowledged to the ack. */
  #acked({ stream_id }) {
    const seen = this.#seenAt.get(stream_id);
    if (seen === undefined) return;
    this.#seenAt.delete(stream_id);
    this.#ackWait = performance.now() - seen;
  }

  #draw() {
    const info = this.acts.stream()?.info;
    const { window = WINDOW, inFlight = 0, received = 0, resumes = 0 } = info ?? {};
    Object.assign($("gauge"), { max: window, value: inFlight });
    $("gauge").classList.toggle("full", inFlight >= window);
    say($("inflight"), `${inFlight} / ${window}`);
    const { roundTripMs, transport, buffered, reconnects } = this.client.stats();
    const from = performance.now() - RATE_OVER_MS;
    const recent = this.#arrivals.filter(([at]) => at > from).reduce((sum, [, chunks]) => sum + chunks, 0);
    say($("f-trip"), roundTripMs === null ? "–" : milliseconds(roundTripMs));
    say($("f-ack"), this.#ackWait ? milliseconds(this.#ackWait) : "–");
    say($("f-buffered"), String(buffered.pieces));
    say($("f-rate"), count(Math.round(recent / RATE_OVER_MS * 1000)));
    say($("f-last"), count(received));
    say($("f-resumes"), String(resumes));
    say($("f-paint"), this.#paints.length ? `${this.#percentile(.95)} p95` : "–");
    say($("f-reconnects"), String(reconnects));
    say($("f-transport"), transport);
    this.#timeline.draw();
  }

  #percentile(share) {
    const sorted = this.#paints.toSorted((a, b) => a - b);
    return milliseconds(sorted[Math.floor(sorted.length * share)]);
  }
}
