import { Emitter } from "./emitter.js";
import { Session } from "./session.js";
import { ChatStream } from "./stream.js";
export type StreamRecord = import("./record.js").StreamRecord;
export type Outcome = import("./record.js").Outcome;
export type Message = import("./messages.js").Message;
export type Transport = import("./transport.js").Transport;
export type TransportFactory = import("./transport.js").TransportFactory;
export type ClientOptions = {
    /**
     * the conversation to continue
     */
    sessionId?: string;
    /**
     * a function is called for every connection, so also after 3000, and again before a token runs out
     */
    token?: string | (() => string | undefined | Promise<string | undefined>);
    /**
     * chunks on the way and not yet rendered, where it is not the server's default
     */
    window?: number;
    /**
     * the same in bytes
     */
    windowBytes?: number;
    /**
     * true: the window is widened, as far as the server allows, for a reader who would otherwise acknowledge more than 20 times a second
     */
    adaptive?: boolean;
    /**
     * further fields of the hello
     */
    hello?: Record<string, any>;
    /**
     * connections to try in a row without progress; 5
     */
    maxTries?: number;
    /**
     * tried in order; a WebSocket, then event streams and POSTs
     */
    transports?: TransportFactory[];
    /**
     * how often one fails that was never established, before the next one is tried; 2
     */
    transportTries?: number;
    /**
     * messages of one stream received and not rendered
     */
    maxBufferedPieces?: number;
    /**
     * the same in bytes
     */
    maxBufferedBytes?: number;
};
/**
 * One session with a server, over any number of connections.
 *
 * Events: `stateChange`, `connected`, `connectionError`, `connectionLost`, `recoveryAttempt`, `maxRetriesExceeded`,
 * `disconnected`, `session` (`active`: streams that run and are not followed yet), `history`, `session_changed`,
 * `stream_list`, `going_away`, `error`, `tokenError`, `token_renewed`, `unknownMessage`; and those of all its streams, with the `stream`.
 */
export declare class StreamClient extends Emitter {
    #private;
    url: string;
    session: Session;
    /**
     * @param {string|URL} url of the WebSocket, `wss://…/ws`
     * @param {ClientOptions} [options]
     */
    constructor(url: string | URL, options?: ClientOptions);
    get state(): import("./session.js").State;
    get sessionId(): string | undefined;
    get connectionId(): string | undefined;
    get retryInMs(): number;
    /** The streams that have not ended. */
    get streams(): ChatStream[];
    connect(): void;
    /** Ends everything, here; a stream goes on at the server unless it is cancelled. `connect` begins anew. */
    close(): void;
    /** Loses the connection on purpose. The client comes back by itself and resumes. */
    drop(): void;
    /** Asks whether the connection is alive, which also measures its round trip; one that is waited for is tried at once. */
    probe(): void;
    /**
     * Asks for an answer.
     * @param {string|object[]} prompt the next message of the session's conversation, or all messages of one
     * @param {object} [config] `model`, `temperature` …: docs/protocol.md, "chat_request"
     * @param {{requestId?: string, sessionId?: string}} [options] the same `requestId` again attaches to the same answer
     * @returns {ChatStream}
     */
    chat(prompt: string | object[], config?: object, { requestId, sessionId }?: {
        requestId?: string;
        sessionId?: string;
    }): ChatStream;
    /**
     * Follows an answer that another tab began, or this page before it was reloaded.
     * @param {string} streamId
     * @param {import("./record.js").Known & {snapshot?: boolean}} [from] what the page has of it already
     * @returns {ChatStream}
     */
    follow(streamId: string, from?: import("./record.js").Known & {
        snapshot?: boolean;
    }): ChatStream;
    /**
     * The session's streams, as they are then, asked on this connection or the next.
     * @returns {Promise<{stream_id: string, last_chunk_id: number, state: string}[]>}
     */
    list(): Promise<{
        stream_id: string;
        last_chunk_id: number;
        state: string;
    }[]>;
    /**
     * A session's messages, asked on this connection or the next.
     * @param {string} [sessionId]
     * @param {{before?: string, limit?: number}} [page] only what is older than the message with the id `before`. With a
     *   `limit` one page of so many, or fewer where they are large: its `more` says whether there are older ones. Without, all
     * @returns {Promise<Message>} the `history`
     */
    history(sessionId?: string, page?: {
        before?: string;
        limit?: number;
    }): Promise<Message>;
    /**
     * The answer is the event `session_changed`, here and in all connections of that session.
     * @param {string} title
     * @param {string} [sessionId]
     * @returns {boolean} false without a connection
     */
    rename(title: string, sessionId?: string): boolean;
    /**
     * Deletes a session with all it holds; the answer is `session_changed`.
     * @param {string} [sessionId]
     * @returns {boolean} false without a connection
     */
    deleteSession(sessionId?: string): boolean;
    /** Where everything stands: what a panel shows. */
    stats(): {
        connections: number;
        reconnects: number;
        messages: number;
        ignored: number;
        acks: number;
        bytesReceived: number;
        bytesSent: number;
        state: import("./session.js").State;
        transport: string;
        roundTripMs: number | null;
        streams: number;
        window: number;
        inFlight: number;
        buffered: {
            pieces: number;
            bytes: number;
        };
        resumes: number;
    };
}
