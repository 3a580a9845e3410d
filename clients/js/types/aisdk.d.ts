/**
 * wsstream for the AI SDK: a `ChatTransport` for `useChat` that speaks the native wire. It comes back by itself after a
 * cut and goes on where it was, acknowledges what the chat has taken, and stops answers at the server.
 *
 *     const transport = new WsstreamChatTransport("wss://example.org/ws");
 *     const chat = useChat({ id, transport, resume: true });
 *
 * It needs nothing of the package `ai`; `UiChunk` and the others have the shapes of its version 7.
 */
import { StreamClient } from "./index.js";
export type UiChunk = {
    type: string;
    [field: string]: any;
};
export type UiPart = {
    type: string;
    [field: string]: any;
};
export type UiMessage = {
    id: string;
    role: "system" | "user" | "assistant";
    parts: UiPart[];
    metadata?: any;
};
export type ChatStream = import("./stream.js").ChatStream;
export type HeaderFields = Record<string, string> | Headers;
export type ReconnectOptions = {
    chatId: string;
    abortSignal?: AbortSignal;
    headers?: HeaderFields;
    body?: object;
    metadata?: unknown;
};
export type SendOptions = ReconnectOptions & {
    trigger: "submit-message" | "regenerate-message";
    messageId: string | undefined;
    messages: UiMessage[];
};
export type TransportOptions = {
    /**
     * one to share with other parts of the page; it is not closed with the transport
     */
    client?: StreamClient;
    /**
     * `model` and `config`, which choose as those of a `chat_request` do; a message's own `body` goes before
     */
    body?: object;
    /**
     * who says what was said before: the chat with every message, or the server from
     * its own history (then only new messages travel, where a message is new and of text alone)
     */
    history?: "client" | "server";
};
export declare class WsstreamChatTransport {
    #private;
    /** A resumed answer begins anew, under the same message id. */
    resumeStreamIsReplay: boolean;
    /**
     * @param {string|URL} url of the WebSocket, `wss://…/ws`
     * @param {TransportOptions & import("./client.js").ClientOptions} [options]
     */
    constructor(url: string | URL, { client, body, history, ...options }?: TransportOptions & import("./client.js").ClientOptions);
    /** The connection, for those who want to show its state. */
    get client(): StreamClient;
    /**
     * @param {SendOptions} options
     * @returns {Promise<ReadableStream<UiChunk>>}
     */
    sendMessages({ chatId, messages, trigger, messageId, abortSignal, body }: SendOptions): Promise<ReadableStream<UiChunk>>;
    /**
     * @param {ReconnectOptions} options
     * @returns {Promise<ReadableStream<UiChunk>|null>} null where nothing runs
     */
    reconnectToStream({ chatId, abortSignal }: ReconnectOptions): Promise<ReadableStream<UiChunk> | null>;
    /** Ends the connection, unless it is shared; answers go on at the server. */
    close(): void;
}
/** Translates what a log holds into UI message chunks; the server's own translation is `wsstream/wires/uistream.py`. */
export declare class UiParts {
    #private;
    /**
     * @param {string} messageId
     * @param {string} streamId
     * @param {string} [model]
     * @returns {UiChunk[]}
     */
    begin(messageId: string, streamId: string, model?: string): UiChunk[];
    /**
     * @param {string} kind
     * @param {string} content
     * @returns {UiChunk[]}
     */
    take(kind: string, content: string): UiChunk[];
    /**
     * What was withdrawn leaves the step, and what still stands is told again.
     * @param {string} reasoning
     * @param {string} text
     * @returns {UiChunk[]}
     */
    reset(reasoning: string, text: string): UiChunk[];
    /**
     * @param {import("./record.js").Outcome} outcome
     * @returns {UiChunk[]}
     */
    end(outcome: import("./record.js").Outcome): UiChunk[];
}
/**
 * UI messages as a provider takes them; reasoning, data and sources are not for it.
 * @param {UiMessage[]} messages
 * @returns {object[]}
 */
export declare function toChatMessages(messages: UiMessage[]): object[];
