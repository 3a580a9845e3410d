/** What a session has to say: messages for the server, events for the application. */
import { encode, utf8Length } from "./messages.js";

/** @typedef {{type: string, stream?: import("./record.js").StreamRecord, [field: string]: any}} SessionEvent */

/**
 * What a question or a request ends with that nobody at the server has refused.
 * @param {string} error_type
 * @param {string} message
 */
export const failed = (error_type, message) => ({ ok: false, error_type, message, recoverable: false });

export class Outbox {
  /** @type {string[]} */ #sends = [];
  /** @type {SessionEvent[]} */ #events = [];
  /** Counts of the session since its beginning. */
  counts = { connections: 0, reconnects: 0, messages: 0, ignored: 0, acks: 0, bytesReceived: 0, bytesSent: 0 };
  /** @type {number|undefined} bytes of the largest message that the server reads; not known before it has greeted */
  maxMessage;

  /** All of it since the last call. */
  take() { return { sends: this.#sends.splice(0), events: this.#events.splice(0) }; }

  /** The connection that was to carry the messages is gone. */
  drop() { this.#sends = []; }

  /**
   * @param {string} type
   * @param {Record<string, any>} [detail]
   */
  emit(type, detail) { this.#events.push({ ...detail, type }); }

  /**
   * Something that shows.
   * @param {string} type
   * @param {Record<string, any>} detail
   */
  news(type, detail) {
    this.emit(type, detail);
    this.emit("change", detail);
  }

  /**
   * Sends a message, but for one that is too large: the server would close the connection, with all that runs on it.
   * @param {object} message
   * @param {boolean} [dry] only says whether it could be sent
   * @returns {string} why it was not sent, for people; empty where it was
   */
  send(message, dry) {
    const text = encode(message);
    const size = utf8Length(text);
    if (size > /** @type {number} */ (this.maxMessage)) return `Too large: ${size} bytes, the server reads ${this.maxMessage}.`;
    if (!dry) {
      this.counts.bytesSent += size;
      this.#sends.push(text);
    }
    return "";
  }
}
