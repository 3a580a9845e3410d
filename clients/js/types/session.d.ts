export type Message = import("./messages.js").Message;
export type StreamRecord = import("./record.js").StreamRecord;
export type Asked = import("./record.js").Asked;
export type SessionEvent = import("./outbox.js").SessionEvent;
export type State = "idle" | "connecting" | "connected" | "waiting" | "stopped";
export type SessionOptions = {
    /**
     * in [0, 1), for the jitter
     */
    random?: () => number;
    /**
     * the conversation to continue
     */
    sessionId?: string;
    /**
     * further fields of the hello: `window`, `window_bytes`, `batch`, `client` …
     */
    hello?: Record<string, any>;
    /**
     * in a row without progress
     */
    maxTries?: number;
    /**
     * whether a new token can be had: before one runs out, and after a close for that
     */
    canRenew?: boolean;
    /**
     * whether a window that is too narrow for its reader may be widened, as far as the server allows
     */
    adaptive?: boolean;
    /**
     * messages of one stream received and not rendered, beyond which it is taken no further for a while
     */
    maxBufferedPieces?: number;
    /**
     * the same in bytes
     */
    maxBufferedBytes?: number;
};
export declare class Session {
    #private;
    /** Those that have not ended. */
    streams: Set<import("./record.js").StreamRecord>;
    hello: Record<string, any>;
    maxTries: number;
    /** @type {State} */
    state: State;
    /** @type {string|undefined} */ sessionId: string | undefined;
    /** @type {string|undefined} */ connectionId: string | undefined;
    retryAt: number;
    closeCode: number;
    closeReason: string;
    /** What the browser thinks of the network. Tries without one do not count. */
    online: boolean;
    /** @param {SessionOptions} [options] */
    constructor(options?: SessionOptions);
    /** Counts since the beginning. */
    counts: {
        connections: number;
        reconnects: number;
        messages: number;
        ignored: number;
        acks: number;
        bytesReceived: number;
        bytesSent: number;
    };
    get roundTripMs(): number | null;
    /** What is to be sent and what has happened since the last call. */
    take(): {
        sends: string[];
        events: import("./outbox.js").SessionEvent[];
    };
    /** When `tick` wants to be called next; Infinity for never. */
    timer(): number;
    /** @param {number} now */
    tick(now: number): void;
    /**
     * The user asks for a connection: that ends a wait and forgives earlier failures.
     * @param {number} now
     */
    connect(now: number): void;
    /**
     * The socket is open.
     * @param {number} now
     * @param {string} [token]
     */
    opened(now: number, token?: string): void;
    /**
     * The socket is gone. What was unfinished stays, to be resumed, unless the close is final.
     * @param {number} code
     * @param {number} now
     * @param {{reason?: string, retryAfterMs?: number|null}} [why]
     */
    disconnected(code: number, now: number, { reason, retryAfterMs }?: {
        reason?: string;
        retryAfterMs?: number | null;
    }): void;
    /** Ends it all here; streams go on at the server unless they are cancelled. */
    close(): void;
    /**
     * The machine woke up, the page came to the front, the network changed: what looks connected may be dead, and who
     * waits need not wait any longer.
     * @param {number} now
     */
    wake(now: number): void;
    /**
     * Starts an answer, or keeps the request until there is a connection. `again` says that its id was used before, so
     * that a cancel is told to the server whatever happens. One that cannot be sent, because it is too large or the
     * connection was closed for good, has ended when this returns: its `outcome` says why.
     * @param {Asked} asked
     */
    request(asked: Asked): import("./record.js").StreamRecord;
    /**
     * Follows a stream that somebody else started: another tab, or this page before it was reloaded. With `snapshot`,
     * what was missed comes at once.
     * @param {string} streamId
     * @param {import("./record.js").Known & {snapshot?: boolean}} [from] what the reader has of it already
     */
    follow(streamId: string, from?: import("./record.js").Known & {
        snapshot?: boolean;
    }): import("./record.js").StreamRecord;
    /**
     * Stops the answer, for everybody, as soon as the server can be told.
     * @param {StreamRecord} stream
     * @returns {boolean} false where it has ended already
     */
    cancel(stream: StreamRecord): boolean;
    /**
     * Nobody here reads the stream any more; the answer goes on.
     * @param {StreamRecord} stream
     * @param {number} now
     */
    leave(stream: StreamRecord, now: number): void;
    /**
     * The reader has dealt with everything up to this chunk.
     * @param {StreamRecord} stream
     * @param {number} chunkId
     * @param {number} now
     */
    rendered(stream: StreamRecord, chunkId: number, now: number): void;
    /**
     * Asks for the session's streams, on this connection or the next; they come as the event `stream_list`, too.
     * @param {(answer: Message) => void} [settle] told the `stream_list`, or the `error`
     */
    list(settle?: (answer: Message) => void): void;
    /**
     * Asks for a page of a session's messages, on this connection or the next.
     * @param {string} [sessionId]
     * @param {(answer: Message) => void} [settle] told the `history`, or the `error`: the server's, or one that says why it is not asked
     * @param {{before?: string, limit?: number}} [page] at most `limit` messages, all older than the one with the id `before`
     */
    askHistory(sessionId?: string, settle?: (answer: Message) => void, page?: {
        before?: string;
        limit?: number;
    }): void;
    /**
     * @param {string} title
     * @param {string} [sessionId]
     * @returns {boolean} false without a connection, or where it is too large
     */
    rename(title: string, sessionId?: string): boolean;
    /**
     * @param {string} [sessionId]
     * @returns {boolean} false without a connection
     */
    forget(sessionId?: string): boolean;
    /**
     * A new token of the same user, for the connection that there is; the answer is the event `token_renewed`, or `error`.
     * @param {string|undefined} token
     */
    renew(token: string | undefined): void;
    /**
     * There is no new token to be had: one is wanted again, a little later each time.
     * @param {number} now
     */
    renewalFailed(now: number): void;
    /**
     * Never throws: what cannot be understood is counted and left alone.
     * @param {string} text one message from the server
     * @param {number} now
     */
    receive(text: string, now: number): void | boolean;
    /** Whether it ran out of tries, which a network that is back makes good. */
    get gaveUp(): boolean;
    /** Why nothing can be asked any more before somebody connects anew; empty where it can. */
    get over(): string;
}
