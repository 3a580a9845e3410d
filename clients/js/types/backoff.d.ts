/** Whether and when to connect again: docs/protocol.md, "Close codes". */
export declare const CLOSE_UNAUTHORIZED = 3000;
export declare const CLOSE_TIMEOUT = 3008;
/** @param {number} code */
export declare function isFinal(code: number): boolean;
/**
 * Milliseconds to wait before try `attempt` (0, 1, 2 …) in a row: full jitter.
 * @param {number} attempt
 * @param {number} jitter in [0, 1)
 * @param {{code?: number, toldMs?: number|null}} [why] what the connection was closed with, and what the server asked for, which wins
 */
export declare function reconnectDelay(attempt: number, jitter: number, { code, toldMs }?: {
    code?: number;
    toldMs?: number | null;
}): number;
