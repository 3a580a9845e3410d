/** What the session knows about one stream: its text in pieces, and where its reader stands. The mirror of `View` in wsstream/client_protocol.py. */
import { AckPacer, WishedWindow } from "./flow.js";
import { utf8Length } from "./messages.js";

/** @typedef {{ok: boolean, finish_reason?: string, error_type?: string, message?: string, recoverable?: boolean, retry_after?: number, parsed?: any, [field: string]: any}} Outcome */
/** @typedef {{first: number, last: number, kind: string, content: string, bytes: number, textEnd: number}} Piece chunks `first` to `last`; `textEnd` is how long the text is behind it */
/** @typedef {{lastChunkId?: number, text?: string, reasoning?: string}} Known what a reader has already: all of it up to a chunk */
/** @typedef {{requestId?: string, streamId?: string, message?: string, messages?: object[], config?: object, sessionId?: string, again?: boolean}} Asked */

export class StreamRecord {
  /** @type {Piece[]} */
  #pieces = [];
  /** @type {Map<string, {count: number, text: string}>} what was joined when somebody last looked */
  #joined = new Map();
  /** @type {string|undefined} */ requestId;
  /** @type {string|undefined} */ streamId;
  /** @type {string|undefined} */ epoch;
  /** @type {string|undefined} */ model;
  /** Place in the queue; 0 where it does not wait. */
  position = 0;
  /** Chunk ids: the last with no gap before it, the last shown. */
  received = 0; rendered = 0;
  pacer = new AckPacer();
  wished = new WishedWindow(50);
  /** Bytes received. */
  #bytes = 0;
  /** When a request that was refused for want of capacity is made again. */
  askAt = Infinity;
  refusals = 0;
  /** @type {"off"|"asked"|"live"} whether this connection delivers the stream; what comes while it is not live is stale. */
  link = "off";
  sent = false; started = false; cancelled = false; snapshot = false;
  /** Nobody reads it any more: what comes is acknowledged and thrown away. */
  left = false;
  /** More came than may be kept: the rest is asked for when the reader has caught up. */
  overflowed = false;
  /** The chunk a batch is to end at, so that a rewind can withdraw what is behind it; 0 for none. */
  seam = 0;
  resumes = 0; gaps = 0;
  /** Received and not yet rendered. */
  bufferedPieces = 0; bufferedBytes = 0;
  /** @type {Outcome|null} */
  outcome = null;

  /** @param {Asked} asked */
  constructor(asked) {
    this.asked = asked;
    this.requestId = asked.requestId;
    this.streamId = asked.streamId;
  }

  /** The last chunk that was acknowledged. */
  get acked() { return this.pacer.acked; }
  get window() { return this.wished.limit; }
  get inFlight() { return this.received - this.acked; }
  /** Bytes that were dealt with, of all that ever came. */
  get shownBytes() { return this.#bytes - this.bufferedBytes; }
  get textLength() { return this.#pieces.at(-1)?.textEnd ?? 0; }
  get text() { return this.textOf("text"); }

  /** @param {string} kind everything of one kind, joined when it is looked at */
  textOf(kind) {
    const known = this.#joined.get(kind) ?? { count: 0, text: "" };
    if (known.count < this.#pieces.length) {
      known.text += this.#join(known.count, kind);
      known.count = this.#pieces.length;
      this.#joined.set(kind, known);
    }
    return known.text;
  }

  /** @param {number} at the text behind its first `at` UTF-16 units; costs what it returns, not what there is */
  textFrom(at) {
    const from = this.#firstBehind("textEnd", at);
    return this.#join(from, "text").slice(Math.max(0, at - (this.#pieces[from - 1]?.textEnd ?? 0)));
  }

  /**
   * @param {number} from the pieces behind so many
   * @param {string} kind
   */
  #join(from, kind) { return this.#pieces.slice(from).filter((piece) => piece.kind === kind).map((piece) => piece.content).join(""); }

  /**
   * How many pieces stand before what lies behind a place. Looked for from the end, where it mostly is.
   * @param {"last"|"textEnd"} field
   * @param {number} at
   */
  #firstBehind(field, at) {
    let from = this.#pieces.length;
    while (from > 0 && this.#pieces[from - 1][field] > at) from -= 1;
    return from;
  }

  /**
   * What its reader has already, for example from the session's history: it goes on behind that.
   * @param {Known} from
   */
  begin({ lastChunkId, text = "", reasoning = "" }) {
    if (!lastChunkId) return;
    this.append(1, lastChunkId, "reasoning", reasoning);
    // Last, so that a rewind finds it first.
    this.append(1, lastChunkId, "text", text);
    this.renderedTo(lastChunkId);
    this.pacer = new AckPacer(lastChunkId);
  }

  /**
   * @param {number} first
   * @param {number} last
   * @param {string} kind
   * @param {string} content
   */
  append(first, last, kind, content) {
    const bytes = utf8Length(content);
    const textEnd = this.textLength + (kind === "text" ? content.length : 0);
    this.#pieces.push({ first, last, kind, content, bytes, textEnd });
    this.received = last;
    this.#bytes += bytes;
    this.bufferedPieces += 1;
    this.bufferedBytes += bytes;
  }

  /**
   * The end of the last piece that lies before a chunk or ends with it.
   * @param {number} chunkId
   */
  lastEnd(chunkId) { return this.#pieces[this.#firstBehind("last", chunkId) - 1]?.last ?? 0; }

  /** @param {number} upTo */
  renderedTo(upTo) {
    this.rendered = upTo;
    if (upTo === this.received) this.bufferedPieces = this.bufferedBytes = 0;
    else this.#count();
  }

  /**
   * What was rendered is acknowledged; from here on acks keep pace with a new window.
   * @param {number} window what the server grants, however fast anybody reads
   * @param {import("./flow.js").Terms} terms
   */
  open(window, terms) {
    this.wished = new WishedWindow(window, terms.most, terms.roundTripMs);
    this.pacer = new AckPacer(this.rendered, this.shownBytes, terms.windowBytes);
  }

  /** The connection that would have brought the rest is gone: what nobody has seen yet comes again. */
  forgetUnseen() {
    this.#pieces.length = this.#firstBehind("last", this.rendered);
    this.received = this.rendered;
    this.bufferedPieces = this.bufferedBytes = 0;
    this.#joined.clear();
  }

  /**
   * Withdraws what is behind a chunk.
   * @param {number} chunkId the rewind's own
   * @param {number} toChunkId
   * @param {number} [withdrawn] code points of text that this is; with them a merged batch can be cut
   * @returns {boolean} false when the target lies inside a batch that cannot be cut: then the text goes back to its start
   */
  rewind(chunkId, toChunkId, withdrawn) {
    let left = withdrawn ?? NaN;
    let last;
    this.#joined.clear();
    while ((last = this.#pieces.at(-1)) && last.last > toChunkId) {
      this.#pieces.pop();
      const points = last.kind === "text" ? [...last.content] : [];
      if (last.first > toChunkId) left -= points.length;
      else if (Number.isNaN(left)) return this.#goBack();
      else this.append(last.first, toChunkId, last.kind, points.slice(0, Math.max(0, points.length - left)).join(""));
    }
    this.append(chunkId, chunkId, "rewind", "");
    this.#count();
    return true;
  }

  #goBack() {
    this.received = this.#pieces.at(-1)?.last ?? 0;
    this.rendered = Math.min(this.rendered, this.received);
    this.pacer.acked = Math.min(this.acked, this.rendered);
    this.#count();
    return false;
  }

  #waiting() { return this.#pieces.slice(this.#firstBehind("last", this.rendered)); }

  #count() {
    const waiting = this.#waiting();
    this.bufferedPieces = waiting.length;
    this.bufferedBytes = waiting.reduce((sum, piece) => sum + piece.bytes, 0);
  }
}
