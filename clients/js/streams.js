/**
 * All streams of one session that have not ended, on whatever connection there is: what `ClientProtocol` in
 * wsstream/client_protocol.py does for its views.
 */
import { failed } from "./outbox.js";
import { StreamRecord } from "./record.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./record.js").Outcome} Outcome */
/** @typedef {import("./record.js").Asked} Asked */
/** @typedef {import("./flow.js").Terms & {window: number, wished: number}} StreamTerms `window`: where a stream does not say; `wished`: the one to go back to */

/** A server that leaves the same hole after this many resumes will leave it for ever. */
const MAX_GAPS = 3;
/** How often a request is made again that the server has no capacity for. */
const MAX_REFUSALS = 5;
const MAX_STREAMS = 256;

export class Streams {
  /** @type {Set<StreamRecord>} */
  all = new Set();
  /** @type {StreamTerms|null} of the connection that there is */ #terms = null;
  /** Why there will be no connection any more; empty where there may be one. */
  over = "";
  #out; #backoff; #maxPieces; #maxBytes;

  /**
   * @param {import("./outbox.js").Outbox} out
   * @param {import("./backoff.js").Backoff} backoff begins anew when a chunk has come
   * @param {import("./session.js").SessionOptions} options
   */
  constructor(out, backoff, { maxBufferedPieces = 4096, maxBufferedBytes = 2 ** 24 }) {
    this.#out = out;
    this.#maxPieces = maxBufferedPieces;
    this.#maxBytes = maxBufferedBytes;
    this.#backoff = backoff;
  }

  // -- the connection

  /** @param {StreamTerms} terms there is a connection: what has not ended goes on there */
  greeted(terms) {
    this.#terms = terms;
    for (const stream of this.all) this.#attach(stream);
  }

  /** The connection is gone. */
  lost() {
    this.#terms = null;
    for (const stream of this.all) this.#unlink(stream);
  }

  /** @param {string} why there will be no connection any more */
  finish(why) {
    this.over = why;
    for (const stream of this.all) this.#end(stream, failed("interrupted", why));
  }

  get timer() {
    let at = Infinity;
    for (const { pacer, askAt } of this.all) at = Math.min(at, pacer.deadline, askAt);
    return at;
  }

  /** @param {number} now */
  tick(now) {
    for (const stream of this.all) if (now >= stream.pacer.deadline) this.#ack(stream, now);
    for (const stream of this.all) if (now >= stream.askAt) this.#sendRequest(stream);
  }

  // -- what the application wants

  /** @param {Asked} asked */
  request(asked) {
    const stream = new StreamRecord(asked);
    stream.sent = asked.again ?? false;
    return this.#add(stream);
  }

  /**
   * @param {string} streamId
   * @param {import("./record.js").Known & {snapshot?: boolean}} [from]
   */
  follow(streamId, { snapshot = true, ...from } = {}) {
    const stream = new StreamRecord({ streamId });
    stream.sent = stream.started = true;
    stream.snapshot = snapshot;
    stream.begin(from);
    return this.#add(stream);
  }

  /** @param {StreamRecord} stream */
  cancel(stream) {
    if (stream.outcome) return false;
    stream.cancelled = true;
    if (stream.sent) this.#sendCancel(stream);
    else this.#end(stream, { ok: true, finish_reason: "cancelled", final_chunk_id: 0 });
    return true;
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} now
   */
  leave(stream, now) {
    stream.left = true;
    this.rendered(stream, stream.received, now);
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} chunkId
   * @param {number} now
   */
  rendered(stream, chunkId, now) {
    const upTo = stream.lastEnd(chunkId);
    if (upTo <= stream.rendered) return;
    stream.renderedTo(upTo);
    if (stream.link !== "live") return this.#attach(stream);
    const due = stream.pacer.onProcessed(upTo, stream.shownBytes, stream.window, now);
    // An answer that is over waits for no company.
    if (due || (stream.outcome && upTo === stream.received)) this.#ack(stream, now);
  }

  // -- messages in

  /**
   * The newest stream that a message is about. There are few of them.
   * @param {Record<string, any>} message
   * @returns {StreamRecord|undefined}
   */
  find({ stream_id: streamId, request_id: requestId }) {
    let found;
    for (const stream of this.all) if ((streamId && stream.streamId === streamId) || (requestId && stream.requestId === requestId)) found = stream;
    return found;
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  receive(message, now) {
    const stream = this.find(message);
    if (!stream || stream.outcome) return;
    switch (message.type) {
      case "stream_queued": return this.#queued(stream, message);
      case "stream_start": return this.#start(stream, message);
      case "stream_resumed": return this.#resumed(stream, message);
      case "content_chunk": return this.#chunk(stream, message.chunk_id, message.chunk_id, message, now);
      case "chunk_batch": return this.#chunk(stream, message.first_chunk_id, message.last_chunk_id, message, now);
      case "stream_rewind": return this.#rewind(stream, message, now);
      case "stream_status": return this.#out.emit("status", { stream, message });
      case "stream_complete": return this.#finish(stream, message.final_chunk_id, { ...message, ok: true });
      case "stream_error": return this.#finish(stream, message.last_chunk_id, { ...message, ok: false });
      case "error": return this.#refused(stream, message, now);
    }
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   */
  #queued(stream, { stream_id, position }) {
    stream.position = position;
    this.#name(stream, stream_id);
    this.#out.news("queued", { stream, position });
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   */
  #start(stream, { stream_id, epoch, model, window }) {
    if (stream.started) return;
    stream.started = true;
    stream.model = model ?? undefined;
    this.#live(stream, epoch, window);
    this.#name(stream, stream_id);
    this.#out.news("start", { stream });
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   */
  #resumed(stream, { epoch, window, last_chunk_id, tail_chunk_id }) {
    if (stream.link === "off" || last_chunk_id !== stream.rendered) return;
    this.#live(stream, epoch, window);
    this.#out.news("resumed", { stream, tail: tail_chunk_id });
  }

  /**
   * @param {StreamRecord} stream
   * @param {string|undefined} epoch
   * @param {number|undefined} window
   */
  #live(stream, epoch, window) {
    const terms = /** @type {StreamTerms} */ (this.#terms);
    stream.link = "live";
    stream.position = 0;
    stream.epoch = epoch ?? stream.epoch;
    stream.open(window ?? terms.window, terms);
  }

  /**
   * The id may be what a cancel was waiting for.
   * @param {StreamRecord} stream
   * @param {string} streamId
   */
  #name(stream, streamId) {
    if (stream.streamId === streamId) return;
    stream.streamId = streamId;
    this.#sendCancel(stream);
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} first
   * @param {number} last
   * @param {Message} message
   * @param {number} now
   */
  #chunk(stream, first, last, { kind, content }, now) {
    if (!this.#isNext(stream, first, last)) return;
    stream.append(first, last, kind ?? "text", stream.left ? "" : content);
    this.#out.news("contentChunk", { stream, chunkId: last, firstChunkId: first, kind: kind ?? "text", content });
    if (stream.left) this.rendered(stream, last, now);
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   * @param {number} now
   */
  #rewind(stream, { chunk_id, to_chunk_id, reason, withdrawn }, now) {
    if (!this.#isNext(stream, chunk_id, chunk_id)) return;
    const exact = stream.rewind(chunk_id, to_chunk_id, withdrawn);
    this.#out.news("rewind", { stream, reason });
    if (exact) return stream.left && this.rendered(stream, chunk_id, now);
    // The part of a batch that stays is fetched again, in a window that ends where the part does.
    stream.seam = to_chunk_id;
    this.#again(stream);
  }

  /**
   * Whether a chunk continues what is here. A batch that overlaps it cannot be cut, so it counts as a gap.
   * @param {StreamRecord} stream
   * @param {number} first
   * @param {number} last
   */
  #isNext(stream, first, last) {
    if (stream.link !== "live" || last <= stream.received) return false;
    if (first !== stream.received + 1) return this.#gap(stream, first);
    stream.overflowed = stream.bufferedPieces >= this.#maxPieces || stream.bufferedBytes >= this.#maxBytes;
    if (stream.overflowed) return this.#off(stream);
    stream.gaps = 0;
    this.#backoff.tries = 0;
    return true;
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} received
   */
  #gap(stream, received) {
    this.#out.emit("chunkGap", { stream, expected: stream.received + 1, received });
    this.#again(stream);
    return false;
  }

  /** @param {StreamRecord} stream */
  #again(stream) {
    stream.forgetUnseen();
    this.#off(stream);
    stream.gaps += 1;
    if (stream.gaps <= MAX_GAPS) this.#sendResume(stream);
    else this.#end(stream, failed("internal_error", "Part of the answer is missing"));
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} final
   * @param {Outcome} outcome
   */
  #finish(stream, final, outcome) {
    const unborn = stream.link === "asked" && !stream.started;
    if (stream.link !== "live" && !unborn) return;
    if (final !== stream.received) this.#gap(stream, final + 1);
    else this.#end(stream, outcome);
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   * @param {number} now
   */
  #refused(stream, message, now) {
    const passing = message.error_type === "capacity" && message.recoverable && !stream.started && stream.refusals < MAX_REFUSALS;
    if (!passing) return this.#end(stream, { ...message, ok: false });
    stream.refusals += 1;
    stream.link = "off";
    stream.askAt = now + (message.retry_after ?? 1) * 1000;
    this.#out.emit("status", { stream, message: { type: "stream_status", status: "waiting", message: message.message } });
  }

  /**
   * @param {StreamRecord} stream
   * @param {Outcome} outcome
   */
  #end(stream, outcome) {
    stream.outcome = outcome;
    stream.askAt = Infinity;
    if (stream.link !== "live") this.all.delete(stream);
    else if (stream.rendered === stream.received) this.#ack(stream, 0);
    const detail = { stream, outcome };
    this.#out.emit("change", { stream });
    this.#out.emit(outcome.ok ? "complete" : "streamError", detail);
    if (!outcome.ok && !outcome.recoverable) this.#out.emit("streamFailed", detail);
    this.#out.emit("end", detail);
  }

  // -- messages out

  /** @param {StreamRecord} stream */
  #add(stream) {
    if (this.all.size >= MAX_STREAMS) throw new RangeError("Too many streams.");
    this.all.add(stream);
    if (this.over) this.#end(stream, failed("interrupted", this.over));
    else this.#attach(stream);
    return stream;
  }

  /** @param {StreamRecord} stream asks for it on this connection */
  #attach(stream) {
    if (stream.link !== "off" || stream.outcome || stream.askAt < Infinity) return;
    if (!stream.started) return this.#sendRequest(stream);
    if (!this.#terms || (stream.overflowed && stream.rendered < stream.received)) return;
    this.#sendResume(stream);
    this.#sendCancel(stream);
  }

  /** @param {StreamRecord} stream */
  #sendRequest(stream) {
    const { requestId: request_id, sessionId: session_id, message, messages, config } = stream.asked;
    stream.askAt = Infinity;
    this.#ask(stream, { type: "chat_request", request_id, session_id, message, messages, config });
  }

  /** @param {StreamRecord} stream */
  #sendResume(stream) {
    const { streamId: stream_id, rendered: last_chunk_id, epoch, seam } = stream;
    const cut = seam > last_chunk_id;
    const window = cut ? seam - last_chunk_id : undefined;
    stream.overflowed = false;
    stream.pacer.take(last_chunk_id, stream.shownBytes);
    stream.resumes += 1;
    this.#ask(stream, { type: "resume_stream", stream_id, last_chunk_id, epoch, window, snapshot: (stream.snapshot && !cut) || undefined });
  }

  /**
   * What is too large for the server would fail with every connection, so it ends the stream; also without a connection,
   * as far as the last one has told.
   * @param {StreamRecord} stream
   * @param {object} message
   */
  #ask(stream, message) {
    const why = this.#out.send(message, !this.#terms);
    if (why) return this.#end(stream, failed("message_too_large", why));
    if (!this.#terms) return;
    stream.sent = true;
    stream.link = "asked";
  }

  /** @param {StreamRecord} stream */
  #sendCancel(stream) {
    if (stream.cancelled && stream.streamId && !stream.outcome && this.#terms) this.#out.send({ type: "cancel_stream", stream_id: stream.streamId });
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} now
   */
  #ack(stream, now) {
    if (stream.pacer.take(stream.rendered, stream.shownBytes)) {
      this.#out.counts.acks += 1;
      const window = stream.seam ? this.#reopened(stream) : this.#moved(stream, now);
      this.#out.send({ type: "chunk_ack", stream_id: stream.streamId, chunk_id: stream.acked, window });
    }
    if (stream.outcome && stream.acked === stream.received) this.all.delete(stream);
  }

  /**
   * The window to ask for beside an ack, where the one there is does not fit its reader any more.
   * @param {StreamRecord} stream
   * @param {number} now
   */
  #moved({ outcome, wished, pacer }, now) {
    if (outcome) return;
    const window = wished.onAck(pacer.acked, now);
    pacer.notBefore = wished.next(now);
    return window;
  }

  /** @param {StreamRecord} stream the window to go back to, once what a rewind left has been fetched */
  #reopened(stream) {
    if (stream.rendered < stream.seam) return;
    const terms = /** @type {StreamTerms} */ (this.#terms);
    stream.seam = 0;
    stream.open(terms.wished, terms);
    return stream.window;
  }

  /** @param {StreamRecord} stream what comes of it from now on is stale, and what is shown the next resume acknowledges */
  #off(stream) {
    stream.link = "off";
    stream.pacer.deadline = Infinity;
    return false;
  }

  /** @param {StreamRecord} stream */
  #unlink(stream) {
    this.#off(stream);
    stream.askAt = Infinity;
    stream.refusals = 0;
    if (stream.outcome) this.all.delete(stream);
    else if (!stream.overflowed) stream.forgetUnseen();
  }
}
