/**
 * What carries messages. A transport is an object with the part of a WebSocket's shape that is named here; a factory
 * makes one for an address. The client tries its list of factories in order.
 */

/**
 * @typedef {object} Transport
 * @property {(text: string) => void} send before `onopen` it must not be called
 * @property {(code?: number) => void} close after it nothing is called any more
 * @property {(() => void)|null} onopen
 * @property {((event: {data: any}) => void)|null} onmessage
 * @property {((event: {code: number, reason?: string, retryAfterMs?: number|null}) => void)|null} onclose once, also where it never opened
 */

/** @typedef {((url: string, context: {token?: string}) => Transport) & {label?: string}} TransportFactory */

export const SUBPROTOCOL = "wsstream.v1";

/** The browser's own. @type {TransportFactory} */
export const webSocket = (url) => /** @type {any} */ (new WebSocket(url, SUBPROTOCOL));
webSocket.label = "websocket";

/**
 * Which factory is next. One that was never once established is given up for the next after some tries; one that was is kept.
 */
export class TransportList {
  #at = 0; #failures = 0; #proven = false;

  /**
   * @param {TransportFactory[]} factories
   * @param {number} tries
   */
  constructor(factories, tries) {
    if (!factories.length) throw new TypeError("At least one transport is needed.");
    this.factories = factories;
    this.tries = tries;
  }

  get current() { return this.factories[this.#at]; }
  get label() { return this.current.label ?? (this.current.name || "custom"); }

  established() {
    this.#proven = true;
    this.#failures = 0;
  }

  failed() {
    if (this.#proven || this.factories.length === 1) return;
    this.#failures += 1;
    if (this.#failures < this.tries) return;
    this.#failures = 0;
    this.#at = (this.#at + 1) % this.factories.length;
  }
}
