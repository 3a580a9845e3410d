/** Whether and when to connect again: docs/protocol.md, "Close codes". */

export const CLOSE_UNAUTHORIZED = 3000;
export const CLOSE_TIMEOUT = 3008;
const FIRST_MS = 1_000;
const LIMIT_MS = 30_000;
/** A connection that lasts so long counts as progress, though no chunk came over it. */
const STEADY_MS = 10_000;
/** Closes that another try would only repeat: done, forbidden, replaced, or a bug in one of the two programs. */
const FINAL = new Set([1000, 1002, 1003, 1007, 1008, 1009, 3003, 4400, 4406, 4409]);

/** @param {number} code */
export function isFinal(code) { return FINAL.has(code); }

/**
 * Milliseconds to wait before try `attempt` (0, 1, 2 …) in a row: full jitter.
 * @param {number} attempt
 * @param {number} jitter in [0, 1)
 * @param {{code?: number, toldMs?: number|null}} [why] what the connection was closed with, and what the server asked for, which wins
 */
export function reconnectDelay(attempt, jitter, { code, toldMs } = {}) {
  if (toldMs !== undefined && toldMs !== null) return Math.max(0, toldMs);
  if (code === CLOSE_TIMEOUT && attempt === 0) return 0;
  return jitter * Math.min(LIMIT_MS, FIRST_MS * 2 ** attempt);
}

/** The tries since there was progress, and what the server has asked for. */
export class Backoff {
  tries = 0;
  /** @type {number|null|undefined} milliseconds that the server asks for, once this connection is gone */
  toldMs = null;
  /** Nobody comes back sooner, whatever wakes him up. */
  notBefore = 0;
  #random; #greetedAt = Infinity;

  /** @param {() => number} random in [0, 1), for the jitter */
  constructor(random) { this.#random = random; }

  /** @param {number} now there is a connection: what was asked for before is done */
  greeted(now) {
    this.#greetedAt = now;
    this.toldMs = null;
    this.notBefore = 0;
  }

  /** @param {number} now the connection is gone */
  lost(now) {
    if (now >= this.#greetedAt + STEADY_MS) this.tries = 0;
    this.#greetedAt = Infinity;
  }

  /**
   * Begins a wait.
   * @param {number} code
   * @param {number} now
   * @param {boolean} counts without a network a try is none
   * @returns {number} for how long
   */
  wait(code, now, counts) {
    const told = this.toldMs ?? (this.notBefore > now ? this.notBefore - now : null);
    const delay = reconnectDelay(this.tries, this.#random(), { code, toldMs: told });
    if (counts) this.tries += 1;
    if (told) this.notBefore = now + told;
    this.toldMs = null;
    return delay;
  }
}
