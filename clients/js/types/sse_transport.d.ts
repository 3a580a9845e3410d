/**
 * Native messages over HTTP, for networks that let no WebSocket through: docs/protocol.md, "Native messages over HTTP".
 * Server to client is one event stream; client to server are POSTs, one at a time and in order.
 */
export type Transport = import("./transport.js").Transport;
export type TransportFactory = import("./transport.js").TransportFactory;
export type SseOptions = {
    url?: string;
    headers?: Record<string, string>;
    credentials?: RequestCredentials;
    fetch?: typeof fetch;
};
/** The HTTP address that belongs to the WebSocket's. @param {string} url */
export declare function nativeUrl(url: string): string;
/** Reads `text/event-stream`, however it is cut. */
export declare class EventReader {
    #private;
    /**
     * @param {string} text
     * @returns {{event: string, data: string}[]}
     */
    feed(text: string): {
        event: string;
        data: string;
    }[];
}
/** @implements {Transport} */
export declare class SseTransport implements Transport {
    #private;
    token: string | undefined;
    /** @type {Transport["onopen"]} */ onopen: Transport["onopen"];
    /** @type {Transport["onmessage"]} */ onmessage: Transport["onmessage"];
    /** @type {Transport["onclose"]} */ onclose: Transport["onclose"];
    /**
     * @param {string} url
     * @param {SseOptions & {token?: string}} [options]
     */
    constructor(url: string, options?: SseOptions & {
        token?: string;
    });
    /** @param {string} text */
    send(text: string): void;
    close(): void;
}
/**
 * A factory with settings of its own.
 * @param {SseOptions} [options]
 * @returns {TransportFactory}
 */
export declare function sseWith(options?: SseOptions): TransportFactory;
/** The factory for the address beside the WebSocket's. @type {TransportFactory} */
export declare const sse: TransportFactory;
