/** Whether and when to connect again: docs/protocol.md, "Close codes". */

export const CLOSE_UNAUTHORIZED = 3000;
export const CLOSE_TIMEOUT = 3008;
const FIRST_MS = 1_000;
const LIMIT_MS = 30_000;
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
  return jitter * Math.min(LIMIT_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
}
