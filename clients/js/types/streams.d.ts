import { StreamRecord } from "./record.js";
export type Message = import("./messages.js").Message;
export type Outcome = import("./record.js").Outcome;
export type Asked = import("./record.js").Asked;
export type StreamTerms = import("./flow.js").Terms & {
    window: number;
    wished: number;
};
export declare class Streams {
    #private;
    /** @type {Set<StreamRecord>} */
    all: Set<StreamRecord>;
    /** Why there will be no connection any more; empty where there may be one. */
    over: string;
    /**
     * @param {import("./outbox.js").Outbox} out
     * @param {import("./backoff.js").Backoff} backoff begins anew when a chunk has come
     * @param {import("./session.js").SessionOptions} options
     */
    constructor(out: import("./outbox.js").Outbox, backoff: import("./backoff.js").Backoff, { maxBufferedPieces, maxBufferedBytes }: import("./session.js").SessionOptions);
    /** @param {StreamTerms} terms there is a connection: what has not ended goes on there */
    greeted(terms: StreamTerms): void;
    /** The connection is gone. */
    lost(): void;
    /** @param {string} why there will be no connection any more */
    finish(why: string): void;
    get timer(): number;
    /** @param {number} now */
    tick(now: number): void;
    /** @param {Asked} asked */
    request(asked: Asked): StreamRecord;
    /**
     * @param {string} streamId
     * @param {import("./record.js").Known & {snapshot?: boolean}} [from]
     */
    follow(streamId: string, { snapshot, ...from }?: import("./record.js").Known & {
        snapshot?: boolean;
    }): StreamRecord;
    /** @param {StreamRecord} stream */
    cancel(stream: StreamRecord): boolean;
    /**
     * @param {StreamRecord} stream
     * @param {number} now
     */
    leave(stream: StreamRecord, now: number): void;
    /**
     * @param {StreamRecord} stream
     * @param {number} chunkId
     * @param {number} now
     */
    rendered(stream: StreamRecord, chunkId: number, now: number): void;
    /**
     * The newest stream that a message is about. There are few of them.
     * @param {Record<string, any>} message
     * @returns {StreamRecord|undefined}
     */
    find({ stream_id: streamId, request_id: requestId }: Record<string, any>): StreamRecord | undefined;
    /**
     * @param {Message} message
     * @param {number} now
     */
    receive(message: Message, now: number): void | false;
}
