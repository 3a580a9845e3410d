import { StreamClient } from "./client.js";
export type ChatStream = import("./stream.js").ChatStream;
export type ClientOptions = import("./client.js").ClientOptions;
export type ChatMessage = {
    id: string;
    role: string;
    content: string;
    reasoning: string;
    toolCalls?: {
        id: string;
        name: string;
        arguments?: string;
    }[];
    isComplete: boolean;
    streamId?: string;
    outcome?: import("./record.js").Outcome;
    error?: string;
};
export type ChatState = {
    messages: ChatMessage[];
    /**
     * of the connection
     */
    state: import("./session.js").State;
    isStreaming: boolean;
    /**
     * tries since the connection was lost
     */
    retryCount: number;
    /**
     * for people's eyes
     */
    error: string | null;
    sessionId: string | undefined;
};
/** A conversation as a store: React reads snapshots of it, at the pace of the screen. */
export declare class ChatStore {
    #private;
    client: StreamClient;
    /**
     * @param {string} url
     * @param {ClientOptions & {restore?: boolean}} [options]
     */
    constructor(url: string, { restore, ...options }?: ClientOptions & {
        restore?: boolean;
    });
    /** What React reads. */
    getSnapshot: () => ChatState;
    /** @param {() => void} listener */
    subscribe: (listener: () => void) => () => void;
    /** For as long as somebody has opened it, there is a connection. Leaving and coming back at once keeps it. */
    open: () => () => void;
    /**
     * @param {string|object[]} prompt
     * @param {object} [config]
     */
    send: (prompt: string | object[], config?: object) => import("./stream.js").ChatStream;
    /** Stops all answers that run. */
    cancel: () => void;
    /** Connects anew after the tries were used up, and goes on where the reader was. */
    resume: () => void;
    stats: () => {
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
/**
 * A conversation. It connects when the component is mounted and closes the connection when it is gone; answers go on at
 * the server, and are found again by `sessionId`.
 * @param {{url: string} & ClientOptions & {restore?: boolean}} options a change of `url` or `sessionId` begins another conversation; the rest is read once
 */
export declare function useChatStream({ url, sessionId, ...rest }: {
    url: string;
} & ClientOptions & {
    restore?: boolean;
}): {
    messages: ChatMessage[];
    state: import("./session.js").State;
    isStreaming: boolean;
    retryCount: number;
    error: string | null;
    sessionId: string | undefined;
    send: (prompt: string | object[], config?: object) => import("./stream.js").ChatStream;
    cancel: () => void;
    resume: () => void;
    stats: () => {
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
    client: StreamClient;
};
