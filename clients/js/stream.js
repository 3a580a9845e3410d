import { Emitter } from "./emitter.js";

/** @typedef {import("./record.js").StreamRecord} StreamRecord */
/** @typedef {import("./record.js").Outcome} Outcome */
/** @typedef {import("./session.js").Session} Session */

/**
 * One answer.
 *
 * Either iterate (`for await (const text of stream)`: asking for the next piece acknowledges the one before), or listen
 * to `change`, show `text` and call `rendered`; `onFrames` does that at the pace of the screen. Whoever does neither
 * makes the server wait once the window is full.
 *
 * Events: `start`, `resumed`, `contentChunk`, `change`, `rewind` (text was withdrawn), `status`, `chunkGap`,
 * `complete`, `streamError`, `streamFailed`, `end`.
 */
export class ChatStream extends Emitter {
  #run;

  /**
   * @param {StreamRecord} info read it, do not write to it
   * @param {<T>(step: (session: Session, now: number) => T) => T} run
   */
  constructor(info, run) {
    super();
    this.info = info;
    this.#run = run;
  }

  get id() { return this.info.streamId; }
  get requestId() { return this.info.requestId; }
  /** All text so far, without what was withdrawn. */
  get text() { return this.info.text; }
  get reasoning() { return this.info.textOf("reasoning"); }
  get data() { return this.info.textOf("data"); }
  get lastChunkId() { return this.info.received; }
  /** @returns {Outcome|null} null while it runs */
  get outcome() { return this.info.outcome; }
  /** What the server read out of a structured answer; null before the end. */
  get parsed() { return this.outcome?.parsed ?? null; }

  /** @param {number} at the text behind its first `at` UTF-16 units */
  textFrom(at) { return this.info.textFrom(at); }

  /** @param {number} [chunkId] everything up to here is on the screen; the server may send as much again */
  rendered(chunkId = this.lastChunkId) { this.#run((session, now) => session.rendered(this.info, chunkId, now)); }

  /**
   * Stops the answer, for everybody. Without a connection it is said on the next one. What was sent before still comes.
   * @returns {boolean} false where it has ended already, which `outcome` tells: also when its connection was closed for good
   */
  cancel() { return this.#run((session) => session.cancel(this.info)); }

  /** Reads no further; the answer goes on for whoever else follows it. */
  leave() { this.#run((session, now) => session.leave(this.info, now)); }

  /** Resolves at the end, whatever it is. @returns {Promise<Outcome>} */
  get done() {
    if (this.outcome) return Promise.resolve(this.outcome);
    return new Promise((resolve) => this.addEventListener("end", () => resolve(/** @type {Outcome} */ (this.outcome)), { once: true }));
  }

  /** Text as it comes, what has gathered meanwhile in one piece. What a rewind withdraws has been handed out already: `text` is right. */
  async *[Symbol.asyncIterator]() {
    let at = 0;
    const stop = this.on("rewind", () => { at = Math.min(at, this.info.textLength); });
    try {
      for (;;) {
        const [id, piece] = [this.lastChunkId, this.info.textFrom(at)];
        at += piece.length;
        if (piece) yield piece;
        this.rendered(id);
        if (id !== this.lastChunkId) continue;
        if (this.outcome) break;
        await new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
      }
    } finally {
      stop();
    }
    if (!this.outcome.ok) throw Object.assign(new Error(this.outcome.message), { outcome: this.outcome });
  }
}

