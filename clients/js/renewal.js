/** When a new token is wanted, before the one there is runs out. */
import { reconnectDelay } from "./backoff.js";

/** What a new token and the server's answer to it may take before one is wanted again. */
const RENEW_DEADLINE_MS = 10_000;
/** Nobody is asked for a new token sooner than this. */
const LEAST_RENEW_MS = 1_000;

export class Renewal {
  /** When one is wanted. */
  at = Infinity;
  /** Whether the server has one to answer for. */
  pending = false;
  #failures = 0; #asked = false; #random;

  /** @param {(() => number)|null} random in [0, 1); null where no other token can be had */
  constructor(random) { this.#random = random; }

  /** The connection is gone: the next one shows a token of its own. */
  stop() {
    this.at = Infinity;
    this.pending = false;
  }

  /**
   * A token is good. With between a fifth and three tenths of its time left it is renewed; a short one in a second.
   * @param {import("./messages.js").Message} message
   * @param {number} now
   */
  expires({ expires_in: seconds }, now) {
    this.#asked = false;
    const delay = this.#random && seconds !== null ? seconds * (700 + 100 * this.#random()) : NaN;
    this.at = delay >= 0 ? now + Math.max(LEAST_RENEW_MS, delay) : Infinity;
  }

  /**
   * The server has taken the new one.
   * @param {import("./messages.js").Message} message
   * @param {number} now
   */
  succeeded(message, now) {
    this.pending = false;
    this.#failures = 0;
    this.expires(message, now);
  }

  /** @param {number} now there was none to be had, or not a good one: wanted again, a little later each time */
  failed(now) {
    this.pending = false;
    this.at = now + LEAST_RENEW_MS + reconnectDelay(this.#failures, this.#random?.() ?? 0);
    this.#failures += 1;
  }

  /** Whether a new token is the answer to a close: once, before there is a greeting again. */
  isAnswer() {
    if (!this.#random || this.#asked) return false;
    return this.#asked = true;
  }

  /**
   * @param {number} now
   * @returns {boolean} whether to ask for one
   */
  isDue(now) {
    if (now < this.at) return false;
    this.at = now + RENEW_DEADLINE_MS;
    return true;
  }
}
