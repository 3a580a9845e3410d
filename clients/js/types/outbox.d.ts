export type SessionEvent = {
    type: string;
    stream?: import("./record.js").StreamRecord;
    [field: string]: any;
};
/** @typedef {{type: string, stream?: import("./record.js").StreamRecord, [field: string]: any}} SessionEvent */
/**
 * What a question or a request ends with that nobody at the server has refused.
 * @param {string} error_type
 * @param {string} message
 */
export declare const failed: (error_type: string, message: string) => {
    ok: boolean;
    error_type: string;
    message: string;
    recoverable: boolean;
};
export declare class Outbox {
    #private;
    /** Counts of the session since its beginning. */
    counts: {
        connections: number;
        reconnects: number;
        messages: number;
        ignored: number;
        acks: number;
        bytesReceived: number;
        bytesSent: number;
    };
    /** @type {number|undefined} bytes of the largest message that the server reads; not known before it has greeted */
    maxMessage: number | undefined;
    /** All of it since the last call. */
    take(): {
        sends: string[];
        events: SessionEvent[];
    };
    /** The connection that was to carry the messages is gone. */
    drop(): void;
    /**
     * @param {string} type
     * @param {Record<string, any>} [detail]
     */
    emit(type: string, detail?: Record<string, any>): void;
    /**
     * Something that shows.
     * @param {string} type
     * @param {Record<string, any>} detail
     */
    news(type: string, detail: Record<string, any>): void;
    /**
     * Sends a message, but for one that is too large: the server would close the connection, with all that runs on it.
     * @param {object} message
     * @param {boolean} [dry] only says whether it could be sent
     * @returns {string} why it was not sent, for people; empty where it was
     */
    send(message: object, dry?: boolean): string;
}
