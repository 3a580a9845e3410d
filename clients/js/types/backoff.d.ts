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
/** The tries since there was progress, and what the server has asked for. */
export declare class Backoff {
    #private;
    tries: number;
    /** @type {number|null|undefined} milliseconds that the server asks for, once this connection is gone */
    toldMs: number | null | undefined;
    /** Nobody comes back sooner, whatever wakes him up. */
    notBefore: number;
    /** @param {() => number} random in [0, 1), for the jitter */
    constructor(random: () => number);
    /** @param {number} now there is a connection: what was asked for before is done */
    greeted(now: number): void;
    /** @param {number} now the connection is gone */
    lost(now: number): void;
    /**
     * Begins a wait.
     * @param {number} code
     * @param {number} now
     * @param {boolean} counts without a network a try is none
     * @returns {number} for how long
     */
    wait(code: number, now: number, counts: boolean): number;
}
