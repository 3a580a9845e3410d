/**
 * The receiving end's half of flow control: when to acknowledge, and how wide a window to ask for. The mirror of `AckPacer`
 * and `WishedWindow` in wsstream/flow.py, which says why. Times are milliseconds.
 */
export type Terms = {
    most?: number | false | null;
    windowBytes: number;
    roundTripMs: number;
};
/** @typedef {{most?: number|false|null, windowBytes: number, roundTripMs: number}} Terms what a greeting allows: chunks of the widest window (none: it is to stay), bytes, and how far away it came from */
export declare class AckPacer {
    #private;
    acked: number;
    /** When what is due has waited long enough; before `notBefore` half a window waits, too. */
    deadline: number;
    notBefore: number;
    /**
     * @param {number} [acked] what is acknowledged from the start
     * @param {number} [bytes] rendered until then
     * @param {number} [maxBytes] that a window holds
     */
    constructor(acked?: number, bytes?: number, maxBytes?: number);
    /**
     * Everything up to a chunk is rendered.
     * @param {number} chunkId
     * @param {number} bytes rendered in all
     * @param {number} window chunks
     * @param {number} now
     * @returns {boolean} whether it is to be acknowledged now
     */
    onProcessed(chunkId: number, bytes: number, window: number, now: number): boolean;
    /**
     * @param {number} chunkId
     * @param {number} bytes rendered in all
     * @returns {boolean} whether that says anything new
     */
    take(chunkId: number, bytes: number): boolean;
}
export declare class WishedWindow {
    #private;
    limit: number;
    /**
     * @param {number} limit what the server grants, however fast anybody reads
     * @param {number|false|null} [most] that it allows; none: the window is to stay
     * @param {number} [roundTripMs]
     */
    constructor(limit: number, most?: number | false | null, roundTripMs?: number);
    /**
     * @param {number} chunkId everything up to it is being acknowledged
     * @param {number} now
     * @returns {number|undefined} the window to ask for with that
     */
    onAck(chunkId: number, now: number): number | undefined;
    /** @param {number} now when the next ack may go that has half a window to tell of */
    next(now: number): number;
}
