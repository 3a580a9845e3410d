export type Transport = {
    /**
     * before `onopen` it must not be called
     */
    send: (text: string) => void;
    /**
     * after it nothing is called any more
     */
    close: (code?: number) => void;
    /**
     * set where it was renewed
     */
    token?: string;
    onopen: (() => void) | null;
    onmessage: ((event: {
        data: any;
    }) => void) | null;
    /**
     * once, also where it never opened
     */
    onclose: ((event: {
        code: number;
        reason?: string;
        retryAfterMs?: number | null;
    }) => void) | null;
};
export type TransportFactory = ((url: string, context: {
    token?: string;
}) => Transport | Promise<TransportFactory>) & {
    label?: string;
};
/**
 * What carries messages. A transport is an object with the part of a WebSocket's shape that is named here; a factory
 * makes one for an address. The client tries its list of factories in order.
 */
/**
 * @typedef {object} Transport
 * @property {(text: string) => void} send before `onopen` it must not be called
 * @property {(code?: number) => void} close after it nothing is called any more
 * @property {string} [token] set where it was renewed
 * @property {(() => void)|null} onopen
 * @property {((event: {data: any}) => void)|null} onmessage
 * @property {((event: {code: number, reason?: string, retryAfterMs?: number|null}) => void)|null} onclose once, also where it never opened
 */
/** @typedef {((url: string, context: {token?: string}) => Transport|Promise<TransportFactory>) & {label?: string}} TransportFactory what it promises is asked in its place */
export declare const SUBPROTOCOL = "wsstream.v1";
/** The browser's own. @type {TransportFactory} */
export declare const webSocket: TransportFactory;
/** Event streams and POSTs, by a module that is loaded where no WebSocket gets through. @type {TransportFactory} */
export declare const http: TransportFactory;
/**
 * Which factory is next. One that was never established is given up for the next after some tries, or one that was as long
 * as a timeout; one that was established is kept, until somebody connects anew.
 */
export declare class TransportList {
    #private;
    factories: TransportFactory[];
    tries: number;
    /**
     * @param {TransportFactory[]} factories
     * @param {number} tries
     */
    constructor(factories: TransportFactory[], tries: number);
    get current(): TransportFactory;
    get label(): string;
    established(): void;
    /** The network may be another one. */
    forgive(): void;
    /**
     * @param {number} code what it was closed with before it was established
     * @returns {boolean} whether another one is next that was not tried in this round
     */
    failed(code: number): boolean;
}
