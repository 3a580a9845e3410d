/**
 * The receiving end's half of flow control: when to acknowledge, and how wide a window to ask for. The mirror of `AckPacer`
 * and `WishedWindow` in wsstream/flow.py, which says why. Times are milliseconds.
 */

/** An ack waits this long for company. The protocol allows 250; below half a window acks are thereby at most five a second. */
const ACK_DELAY_MS = 200;
/** Between two acks at the least, where the window is as wide as it can be: twenty a second. */
const ACK_GAP_MS = 50;
/** A window is to hold what is rendered in this time and two round trips. */
const SPAN_MS = 200;
/** For so long a window is far too wide before it is halved. */
const CALM_MS = 1_000;
/** What a chunk weighs beside its content, rounded up. */
const CHUNK_OVERHEAD = 128;

/** @typedef {{most?: number|false|null, windowBytes: number, roundTripMs: number}} Terms what a greeting allows: chunks of the widest window (none: it is to stay), bytes, and how far away it came from */

export class AckPacer {
  /** When what is due has waited long enough; before `notBefore` half a window waits, too. */
  deadline = Infinity; notBefore = -Infinity;
  #bytes; #maxBytes;

  /**
   * @param {number} [acked] what is acknowledged from the start
   * @param {number} [bytes] rendered until then
   * @param {number} [maxBytes] that a window holds
   */
  constructor(acked = 0, bytes = 0, maxBytes = Infinity) {
    this.acked = acked;
    this.#bytes = bytes;
    this.#maxBytes = maxBytes;
  }

  /**
   * Everything up to a chunk is rendered.
   * @param {number} chunkId
   * @param {number} bytes rendered in all
   * @param {number} window chunks
   * @param {number} now
   * @returns {boolean} whether it is to be acknowledged now
   */
  onProcessed(chunkId, bytes, window, now) {
    const due = chunkId - this.acked;
    const half = due >= Math.max(1, window >> 1) || bytes - this.#bytes + due * CHUNK_OVERHEAD >= this.#maxBytes / 2;
    this.deadline = Math.min(this.deadline, half ? this.notBefore : now + ACK_DELAY_MS);
    return now >= this.deadline;
  }

  /**
   * @param {number} chunkId
   * @param {number} bytes rendered in all
   * @returns {boolean} whether that says anything new
   */
  take(chunkId, bytes) {
    this.deadline = Infinity;
    if (chunkId <= this.acked) return false;
    this.acked = chunkId;
    this.#bytes = bytes;
    return true;
  }
}

export class WishedWindow {
  #least; #most; #span;
  /** @type {[number, number][]} the last two acks, each a chunk and a time */ #acks = [[0, -Infinity], [0, -Infinity]];
  #busyAt = -Infinity;

  /**
   * @param {number} limit what the server grants, however fast anybody reads
   * @param {number|false|null} [most] that it allows; none: the window is to stay
   * @param {number} [roundTripMs]
   */
  constructor(limit, most, roundTripMs = 0) {
    this.limit = this.#least = limit;
    this.#most = most && Math.max(limit, most);
    this.#span = SPAN_MS + 2 * roundTripMs;
  }

  /**
   * @param {number} chunkId everything up to it is being acknowledged
   * @param {number} now
   * @returns {number|undefined} the window to ask for with that
   */
  onAck(chunkId, now) {
    const [[before, since], last] = this.#acks;
    this.#acks = [last, [chunkId, now]];
    const [needed, there] = [(chunkId - before) * this.#span, this.limit * (now - since)];
    if (!this.#most) return;
    if (needed > there) return this.#move(Math.min(2 * this.limit, this.#most), now);
    if (4 * needed >= there) this.#busyAt = now;
    else if (now - this.#busyAt >= CALM_MS) return this.#move(Math.max(this.limit >> 1, this.#least), now);
  }

  /** @param {number} now when the next ack may go that has half a window to tell of */
  next(now) { return this.limit === this.#most ? now + ACK_GAP_MS : now; }

  /**
   * @param {number} limit
   * @param {number} now
   */
  #move(limit, now) {
    this.#busyAt = now;
    if (limit !== this.limit) return this.limit = limit;
  }
}
