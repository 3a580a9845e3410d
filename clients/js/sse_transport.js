/**
 * Native messages over HTTP, for networks that let no WebSocket through: docs/protocol.md, "Native messages over HTTP".
 * Server to client is one event stream; client to server are POSTs, one at a time and in order.
 */

/** @typedef {import("./transport.js").Transport} Transport */
/** @typedef {import("./transport.js").TransportFactory} TransportFactory */
/** @typedef {{url?: string, headers?: Record<string, string>, credentials?: RequestCredentials, fetch?: typeof fetch}} SseOptions */

const MAX_EVENT_CHARS = 64 * 1024 * 1024;
const MAX_OUTBOX = 1024;
/** What an HTTP status says about the connection, in close codes. */
const CODES = new Map([[401, 3000], [403, 3003], [400, 4400], [406, 4406], [409, 4409], [413, 1009], [429, 4429], [503, 1013]]);

/** The HTTP address that belongs to the WebSocket's. @param {string} url */
export function nativeUrl(url) {
  const address = new URL(url, globalThis.location?.href);
  address.protocol = address.protocol.replace(/^ws/, "http");
  address.pathname = address.pathname.replace(/\/(ws)?$/, "/api/native");
  return address.href;
}

/** Reads `text/event-stream`, however it is cut. */
export class EventReader {
  /** @type {string[]} */
  #data = [];
  #rest = ""; #event = ""; #size = 0;

  /**
   * @param {string} text
   * @returns {{event: string, data: string}[]}
   */
  feed(text) {
    // A CR at the end may be half of a CRLF.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?=[^])/);
    this.#rest = /** @type {string} */ (lines.pop());
    if (this.#rest.length + this.#size > MAX_EVENT_CHARS) throw new RangeError("An event is too large.");
    return lines.flatMap((line) => this.#line(line));
  }

  /** @param {string} line */
  #line(line) {
    if (line === "") return this.#dispatch();
    const [, field, value] = /** @type {RegExpMatchArray} */ (line.match(/^([^:]*):? ?([^]*)$/));
    this.#size += value.length;
    if (field === "data") this.#data.push(value);
    if (field === "event") this.#event = value;
    return [];
  }

  #dispatch() {
    const found = this.#data.length ? [{ event: this.#event || "message", data: this.#data.join("\n") }] : [];
    this.#event = "";
    this.#data = [];
    this.#size = 0;
    return found;
  }
}

/** @implements {Transport} */
export class SseTransport {
  /** @type {Transport["onopen"]} */ onopen = null;
  /** @type {Transport["onmessage"]} */ onmessage = null;
  /** @type {Transport["onclose"]} */ onclose = null;
  /** @type {string[]} */ #outbox = [];
  #abort = new AbortController();
  #up = ""; #posting = false; #begun = false; #done = false;
  #url; #options; #fetch;

  /**
   * @param {string} url
   * @param {SseOptions & {token?: string}} [options]
   */
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = options;
    this.token = options.token;
    this.#fetch = options.fetch ?? ((/** @type {any} */ ...request) => fetch(.../** @type {[any]} */ (request)));
    queueMicrotask(() => { if (!this.#done) this.onopen?.(); });
  }

  /** @param {string} text */
  send(text) {
    if (this.#done) return;
    if (this.#outbox.push(text) > MAX_OUTBOX) return this.#end(1006, "too much to send");
    if (!this.#begun) this.#begin();
    else this.#post();
  }

  close() {
    this.#done = true;
    this.#outbox = [];
    this.#abort.abort();
  }

  /** The first message goes up with the request that opens the stream. */
  async #begin() {
    this.#begun = true;
    try {
      const response = await this.#request(this.#url, this.#take(), { Accept: "text/event-stream" });
      if (!response.ok || !response.body) return this.#refuse(response);
      await this.#read(response.body);
      this.#end(1006, "the event stream ended");
    } catch (error) {
      this.#end(1006, String(/** @type {Error} */ (error)?.message ?? error));
    }
  }

  /** @param {ReadableStream<Uint8Array>} body */
  async #read(body) {
    const reader = body.getReader();
    const decoder = new TextDecoder("utf-8", { fatal: true });
    const events = new EventReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#done) return;
      for (const event of events.feed(decoder.decode(value, { stream: true }))) this.#on(event);
    }
  }

  /** @param {{event: string, data: string}} event */
  #on({ event, data }) {
    if (this.#done) return;
    if (event === "close") {
      const { code = 1006, reason = "" } = JSON.parse(data);
      return this.#end(code, reason);
    }
    if (event !== "message") return;
    this.onmessage?.({ data });
    if (this.#up) return;
    const first = JSON.parse(data);
    if (first.type !== "connection_established") return;
    this.#up = `${this.#url.replace(/\?.*$/, "")}/${encodeURIComponent(first.connection_id)}`;
    this.#post();
  }

  async #post() {
    if (!this.#up || this.#posting || this.#done || !this.#outbox.length) return;
    this.#posting = true;
    try {
      const response = await this.#request(this.#up, this.#take());
      if (!response.ok) return this.#refuse(response);
    } catch (error) {
      return this.#end(1006, String(/** @type {Error} */ (error)?.message ?? error));
    } finally {
      this.#posting = false;
    }
    this.#post();
  }

  #take() {
    const texts = this.#outbox.splice(0);
    return texts.length === 1 ? texts[0] : `[${texts.join(",")}]`;
  }

  /**
   * @param {string} url
   * @param {string} body
   * @param {Record<string, string>} [headers]
   */
  #request(url, body, headers = {}) {
    /** @type {Record<string, string>} */
    const bearer = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    return this.#fetch(url, {
      method: "POST", body, signal: this.#abort.signal, credentials: this.#options.credentials, cache: "no-store",
      headers: { "Content-Type": "application/json", ...headers, ...bearer, ...this.#options.headers },
    });
  }

  /** @param {Response} response */
  #refuse({ status, headers }) {
    const seconds = Number(headers.get("Retry-After") ?? NaN);
    this.#end(CODES.get(status) ?? 1006, `HTTP ${status}`, Number.isFinite(seconds) ? seconds * 1000 : null);
  }

  /**
   * @param {number} code
   * @param {string} reason
   * @param {number|null} [retryAfterMs]
   */
  #end(code, reason, retryAfterMs = null) {
    if (this.#done) return;
    this.close();
    this.onclose?.({ code, reason, retryAfterMs });
  }
}

/**
 * A factory with settings of its own.
 * @param {SseOptions} [options]
 * @returns {TransportFactory}
 */
export function sseWith(options = {}) {
  return Object.assign(
    (/** @type {string} */ url, /** @type {{token?: string}} */ context) => new SseTransport(options.url ?? nativeUrl(url), { ...options, ...context }),
    { label: "sse" },
  );
}

/** The factory for the address beside the WebSocket's. @type {TransportFactory} */
export const sse = /* @__PURE__ */ sseWith();
