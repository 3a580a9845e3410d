import { CLOSE_TIMEOUT } from "./backoff.js";

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

export const SUBPROTOCOL = "wsstream.v1";

/** The browser's own. @type {TransportFactory} */
export const webSocket = (url) => /** @type {any} */ (new WebSocket(url, SUBPROTOCOL));
webSocket.label = "websocket";

/** Event streams and POSTs, by a module that is loaded where no WebSocket gets through. @type {TransportFactory} */
export const http = async () => (await import("./sse_transport.js")).sse;
http.label = "sse";

/** Closes that nobody has sent: a proxy that refuses, cuts or swallows what it does not know looks like that. */
const SILENT = new Set([1006, CLOSE_TIMEOUT]);

/**
 * Which factory is next. One that was never established is given up for the next after some tries, or one that was as long
 * as a timeout; one that was established is kept, until somebody connects anew.
 */
export class TransportList {
  #at = 0; #failures = 0; #proven = false;

  /**
   * @param {TransportFactory[]} factories
   * @param {number} tries
   */
  constructor(factories, tries) {
    if (!factories.length) throw new RangeError("No transport.");
    this.factories = factories;
    this.tries = tries;
  }

  get current() { return this.factories[this.#at]; }
  get label() { return this.current.label ?? "custom"; }

  established() { this.#proven = true; }

  /** The network may be another one. */
  forgive() {
    this.#proven = false;
    this.#failures = 0;
  }

  /**
   * @param {number} code what it was closed with before it was established
   * @returns {boolean} whether another one is next that was not tried in this round
   */
  failed(code) {
    if (this.#proven || !SILENT.has(code)) return false;
    this.#failures += code === CLOSE_TIMEOUT ? this.tries : 1;
    if (this.#failures < this.tries) return false;
    this.#failures = 0;
    this.#at = (this.#at + 1) % this.factories.length;
    return this.#at > 0;
  }
}
