export declare class Renewal {
    #private;
    /** When one is wanted. */
    at: number;
    /** Whether the server has one to answer for. */
    pending: boolean;
    /** @param {(() => number)|null} random in [0, 1); null where no other token can be had */
    constructor(random: (() => number) | null);
    /** The connection is gone: the next one shows a token of its own. */
    stop(): void;
    /**
     * A token is good. With between a fifth and three tenths of its time left it is renewed; a short one in a second.
     * @param {import("./messages.js").Message} message
     * @param {number} now
     */
    expires({ expires_in: seconds }: import("./messages.js").Message, now: number): void;
    /**
     * The server has taken the new one.
     * @param {import("./messages.js").Message} message
     * @param {number} now
     */
    succeeded(message: import("./messages.js").Message, now: number): void;
    /** @param {number} now there was none to be had, or not a good one: wanted again, a little later each time */
    failed(now: number): void;
    /** Whether a new token is the answer to a close: once, before there is a greeting again. */
    isAnswer(): boolean;
    /**
     * @param {number} now
     * @returns {boolean} whether to ask for one
     */
    isDue(now: number): boolean;
}
