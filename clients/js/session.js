/**
 * The client's end of wsstream.v1: messages in, messages and events out. No socket, no timer, no clock, no randomness of
 * its own; `now` is milliseconds of a clock that never steps back, the wire speaks seconds. The mirror of
 * `wsstream.client_protocol`, held to it by the cases in tests/vectors.
 *
 * Whoever owns the socket calls a method, then `take()`, sends what it gives and acts on its events, and calls `tick`
 * when `timer()` is due.
 */
import { CLOSE_TIMEOUT, CLOSE_UNAUTHORIZED, isFinal, reconnectDelay } from "./backoff.js";
import { decode, encode, utf8Length } from "./messages.js";
import { StreamRecord } from "./record.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./record.js").Outcome} Outcome */
/** @typedef {import("./record.js").Asked} Asked */
/** @typedef {"idle"|"connecting"|"connected"|"waiting"|"stopped"} State */
/** @typedef {{type: string, stream?: StreamRecord, [field: string]: any}} SessionEvent */
/** @typedef {{message: object, settle: (answer: Message|null) => void}} Question */

/**
 * @typedef {object} SessionOptions
 * @property {() => number} [random] in [0, 1), for the jitter
 * @property {string} [sessionId] the conversation to continue
 * @property {Record<string, any>} [hello] further fields of the hello: `window`, `window_bytes`, `batch`, `client` …
 * @property {number} [maxTries] in a row without progress
 * @property {boolean} [canRenew] whether a new token can be had: before one runs out, and after a close for that
 * @property {boolean} [adaptive] whether a window that is too narrow for its reader may be widened, as far as the server allows
 * @property {number} [maxBufferedPieces] messages of one stream received and not rendered, beyond which it is taken no further for a while
 * @property {number} [maxBufferedBytes] the same in bytes
 */

/** An ack waits this long for company. The protocol allows 250; below half a window acks are thereby at most five a second. */
const ACK_DELAY_MS = 200;
/** Between two acks at the least, where the window is as wide as it can be: twenty a second. */
const ACK_GAP_MS = 50;
/** A window is to hold what is rendered in this time and two round trips; see `WishedWindow` in wsstream/flow.py. */
const SPAN_MS = 200;
/** For so long a window is far too wide before it is halved. */
const CALM_MS = 1_000;
/** What a greeting's way counts for at the most: it may have waited for somebody's approval. */
const LONGEST_TRIP_MS = 1_000;
/** What a chunk weighs beside its content, rounded up. */
const CHUNK_OVERHEAD = 128;
/** What a new token and the server's answer to it may take before one is wanted again. */
const RENEW_DEADLINE_MS = 10_000;
/** Nobody is asked for a new token sooner than this. */
const LEAST_RENEW_MS = 1_000;
const CONNECT_TIMEOUT_MS = 10_000;
const PROBE_TIMEOUT_MS = 2_000;
/** A connection that lasts so long counts as progress, though no chunk came over it. */
const STEADY_MS = 10_000;
const MIN_INTERVAL_MS = 50;
/** A server that leaves the same hole after this many resumes will leave it for ever. */
const MAX_GAPS = 3;
/** How often a request is made again that the server has no capacity for. */
const MAX_REFUSALS = 5;
const MAX_STREAMS = 256;
const MAX_QUESTIONS = 32;

export class Session {
  /** @type {string[]} */ #sends = [];
  /** @type {SessionEvent[]} */ #events = [];
  /** @type {Map<string, StreamRecord>} */ #byId = new Map();
  /** @type {Question[]} */ #questions = [];
  #heardAt = 0; #greetedAt = 0; #beatAt = Infinity; #interval = 0; #timeout = CONNECT_TIMEOUT_MS;
  #probeBy = Infinity; #sentBeatAt = -1; #establishedAt = Infinity; #window = 50;
  #windowBytes = Infinity; #most = 0; #span = SPAN_MS;
  #tries = 0; #renewed = false; #renewing = false; #renewAt = Infinity; #renewFailures = 0;
  /** @type {number|null} */ #retryIn = null;
  #notBefore = 0;
  #random; #canRenew; #adaptive; #maxBufferedPieces; #maxBufferedBytes;
  /** @type {Set<StreamRecord>} */
  streams = new Set();
  /** @type {State} */
  state = "idle";
  /** @type {string|undefined} */ sessionId;
  /** @type {string|undefined} */ connectionId;
  retryAt = Infinity; closeCode = 0; closeReason = "";
  /** What the browser thinks of the network. Tries without one do not count. */
  online = true;
  /** Counts since the beginning. */
  counts = { connections: 0, reconnects: 0, messages: 0, ignored: 0, acks: 0, bytesReceived: 0, bytesSent: 0 };
  /** @type {number|null} of the newest answered heartbeat */
  roundTripMs = null;

  /** @param {SessionOptions} [options] */
  constructor({
    random = () => 0.5, sessionId, hello = {}, maxTries = 5, canRenew = false, adaptive = true,
    maxBufferedPieces = 4096, maxBufferedBytes = 16 * 1024 * 1024,
  } = {}) {
    this.#random = random;
    this.#canRenew = canRenew;
    this.#adaptive = adaptive;
    this.#maxBufferedPieces = maxBufferedPieces;
    this.#maxBufferedBytes = maxBufferedBytes;
    this.sessionId = sessionId;
    this.hello = hello;
    this.maxTries = maxTries;
  }

  /** What is to be sent and what has happened since the last call. */
  take() { return { sends: this.#sends.splice(0), events: this.#events.splice(0) }; }

  /** When `tick` wants to be called next; Infinity for never. */
  timer() {
    if (this.state === "waiting") return this.retryAt;
    if (!this.#linked) return Infinity;
    let at = Math.min(this.#heardAt + this.#timeout, this.#beatAt, this.#probeBy, this.#renewAt);
    for (const stream of this.streams) at = Math.min(at, stream.ackAt, stream.askAt);
    return at;
  }

  /** @param {number} now */
  tick(now) {
    if (this.state === "waiting" && now >= this.retryAt) return this.#dial(now);
    if (!this.#linked) return;
    for (const stream of this.streams) if (now >= stream.ackAt) this.#ack(stream, now);
    for (const stream of this.streams) if (now >= stream.askAt) this.#sendRequest(stream);
    if (now >= this.#renewAt) {
      this.#renewAt = now + RENEW_DEADLINE_MS;
      this.#emit("tokenWanted");
    }
    if (now >= Math.min(this.#heardAt + this.#timeout, this.#probeBy)) return this.#giveUp(now);
    if (now >= this.#beatAt) this.#beat(now);
  }

  // -- the connection

  /**
   * The user asks for a connection: that ends a wait and forgives earlier failures.
   * @param {number} now
   */
  connect(now) {
    if (this.#linked) return;
    this.#tries = 0;
    this.#dial(now);
  }

  /**
   * The socket is open.
   * @param {number} now
   * @param {string} [token]
   */
  opened(now, token) {
    this.#heardAt = this.#greetedAt = now;
    this.#send({ type: "hello", token, session_id: this.sessionId, client: "wsstream.js", ...this.hello });
  }

  /**
   * The socket is gone. What was unfinished stays, to be resumed, unless the close is final.
   * @param {number} code
   * @param {number} now
   * @param {{reason?: string, retryAfterMs?: number|null}} [why]
   */
  disconnected(code, now, { reason = "", retryAfterMs = null } = {}) {
    if (!this.#linked) return;
    for (const stream of this.streams) this.#unlink(stream);
    const established = this.state === "connected";
    if (established && now >= this.#establishedAt + STEADY_MS) this.#tries = 0;
    this.#beatAt = this.#probeBy = this.#renewAt = Infinity;
    this.#renewing = false;
    this.#sentBeatAt = -1;
    this.#sends.length = 0;
    this.closeCode = code;
    this.closeReason = reason;
    this.#retryIn ??= retryAfterMs;
    this.#emit(established ? "connectionLost" : "connectionError", { code, reason });
    this.#decide(code, now);
  }

  /** Ends it all here; streams go on at the server unless they are cancelled. */
  close() {
    for (const stream of this.streams) this.#unlink(stream);
    this.closeCode = 1000;
    this.#stop(true);
  }

  /**
   * The machine woke up, the page came to the front, the network changed: what looks connected may be dead, and who
   * waits need not wait any longer.
   * @param {number} now
   */
  wake(now) {
    if (this.state === "waiting") this.retryAt = Math.min(this.retryAt, Math.max(now, this.#notBefore));
    else if (this.state === "connected" && this.#probeBy === Infinity) {
      this.#probeBy = now + PROBE_TIMEOUT_MS;
      this.#beat(now);
    }
  }

  // -- what the application wants

  /**
   * Starts an answer, or keeps the request until there is a connection. `again` says that its id was used before, so
   * that a cancel is told to the server whatever happens.
   * @param {Asked} asked
   */
  request(asked) {
    const stream = new StreamRecord(asked);
    stream.sent = asked.again ?? false;
    return this.#add(stream);
  }

  /**
   * Follows a stream that somebody else started: another tab, or this page before it was reloaded. With `snapshot`,
   * what was missed comes at once.
   * @param {string} streamId
   * @param {import("./record.js").Known & {snapshot?: boolean}} [from] what the reader has of it already
   */
  follow(streamId, { snapshot = true, ...from } = {}) {
    const stream = new StreamRecord({ streamId });
    stream.sent = stream.started = true;
    stream.snapshot = snapshot;
    stream.begin(from);
    this.#byId.set(streamId, stream);
    return this.#add(stream);
  }

  /** @param {StreamRecord} stream stops the answer, for everybody, as soon as the server can be told */
  cancel(stream) {
    if (stream.outcome) return;
    stream.cancelled = true;
    if (stream.sent) this.#sendCancel(stream);
    else this.#end(stream, { ok: true, finish_reason: "cancelled", final_chunk_id: 0 });
  }

  /**
   * Nobody here reads the stream any more; the answer goes on.
   * @param {StreamRecord} stream
   * @param {number} now
   */
  leave(stream, now) {
    stream.left = true;
    this.rendered(stream, stream.received, now);
  }

  /**
   * The reader has dealt with everything up to this chunk.
   * @param {StreamRecord} stream
   * @param {number} chunkId
   * @param {number} now
   */
  rendered(stream, chunkId, now) {
    const upTo = chunkId >= stream.received ? stream.received : stream.ends(chunkId).at(-1) ?? 0;
    if (upTo <= stream.rendered) return;
    stream.renderedTo(upTo);
    if (stream.link !== "live") return this.#attach(stream);
    const due = upTo - stream.acked;
    const half = due >= Math.max(1, stream.window >> 1)
      || stream.shownBytes - stream.ackedBytes + due * CHUNK_OVERHEAD >= this.#windowBytes / 2;
    const over = stream.outcome !== null && upTo === stream.received;
    stream.ackAt = Math.min(stream.ackAt, half ? stream.ackFrom : now + ACK_DELAY_MS);
    if (over || now >= stream.ackAt) this.#ack(stream, now);
  }

  /** Asks for the session's streams; they come as the event `stream_list`. */
  list() { if (this.state === "connected") this.#send({ type: "list_streams" }); }

  /**
   * Asks for a page of a session's messages, on this connection or the next. Servers take one such question at a time.
   * @param {string} [sessionId]
   * @param {(answer: Message|null) => void} [settle] told the `history`, the `error`, or null where nobody answers any more
   * @param {{before?: string, limit?: number}} [page] at most `limit` messages, all older than the one with the id `before`
   */
  askHistory(sessionId, settle = () => {}, page) {
    if (this.#questions.length >= MAX_QUESTIONS || this.#isOver) return settle(null);
    this.#questions.push({ message: { type: "get_history", session_id: sessionId, ...page }, settle });
    if (this.#questions.length === 1) this.#ask();
  }

  /**
   * @param {string} title
   * @param {string} [sessionId]
   * @returns {boolean} false without a connection
   */
  rename(title, sessionId) { return this.#say({ type: "rename_session", title, session_id: sessionId }); }

  /**
   * @param {string} [sessionId]
   * @returns {boolean} false without a connection
   */
  forget(sessionId) { return this.#say({ type: "delete_session", session_id: sessionId }); }

  /**
   * A new token of the same user, for the connection that there is; the answer is the event `token_renewed`, or `error`.
   * @param {string|undefined} token
   */
  renew(token) { this.#renewing = this.#say({ type: "renew_token", token }); }

  /**
   * There is no new token to be had: one is wanted again, a little later each time.
   * @param {number} now
   */
  renewalFailed(now) {
    this.#renewing = false;
    this.#renewAt = now + LEAST_RENEW_MS + reconnectDelay(this.#renewFailures, this.#random());
    this.#renewFailures += 1;
  }

  // -- messages in

  /**
   * Never throws: what cannot be understood is counted and left alone.
   * @param {string} text one message from the server
   * @param {number} now
   */
  receive(text, now) {
    this.#heardAt = now;
    this.#probeBy = Infinity;
    this.counts.messages += 1;
    this.counts.bytesReceived += utf8Length(text);
    const read = decode(text);
    if (!read || read.unknown) {
      this.counts.ignored += 1;
      return this.#emit("unknownMessage", { message: read?.message ?? null });
    }
    this.#on(read.message, now);
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  #on(message, now) {
    switch (message.type) {
      case "connection_established": return this.#established(message, now);
      case "heartbeat": return this.#send({ type: "heartbeat_ack", timestamp: message.timestamp });
      case "heartbeat_ack": return this.#beaten(message, now);
      case "history": return this.#answer(message);
      case "going_away": this.#retryIn = message.reconnect_after_ms; return this.#emit("going_away", { message });
      case "token_renewed":
        this.#renewing = false;
        this.#renewFailures = 0;
        this.#expires(message, now);
      // falls through
      case "stream_list":
      case "session_changed": return this.#emit(message.type, { message });
      case "error": return this.#error(message, now);
    }
    const stream = this.#find(message);
    if (stream && !stream.outcome) this.#streamMessage(stream, message, now);
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   * @param {number} now
   */
  #streamMessage(stream, message, now) {
    switch (message.type) {
      case "stream_queued": return this.#queued(stream, message);
      case "stream_start": return this.#start(stream, message);
      case "stream_resumed": return this.#resumed(stream, message);
      case "content_chunk": return this.#chunk(stream, message.chunk_id, message.chunk_id, message, now);
      case "chunk_batch": return this.#chunk(stream, message.first_chunk_id, message.last_chunk_id, message, now);
      case "stream_rewind": return this.#rewind(stream, message, now);
      case "stream_status": return this.#emit("status", { stream, message });
      case "stream_complete": return this.#finish(stream, message.final_chunk_id, { ...message, ok: true });
      case "stream_error": return this.#finish(stream, message.last_chunk_id, { ...message, ok: false });
    }
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  #established(message, now) {
    this.sessionId = message.session_id;
    this.connectionId = message.connection_id;
    this.#interval = Math.max((message.heartbeat_interval ?? 15) * 1000, MIN_INTERVAL_MS);
    this.#timeout = (message.heartbeat_timeout ?? 45) * 1000;
    this.#beatAt = now + this.#interval;
    this.#establishedAt = now;
    this.#window = message.window ?? this.#window;
    this.#windowBytes = message.window_bytes ?? Infinity;
    this.#most = this.#adaptive ? message.limits?.max_window ?? 0 : 0;
    this.#span = SPAN_MS + 2 * Math.min(now - this.#greetedAt, LONGEST_TRIP_MS);
    this.#expires(message, now);
    this.#retryIn = null;
    this.#notBefore = 0;
    this.#renewed = false;
    this.counts.connections += 1;
    this.#setState("connected");
    this.#emit("connected", { sessionId: this.sessionId, connectionId: this.connectionId, message });
    for (const stream of this.streams) this.#attach(stream);
    this.#ask();
    const active = (message.active_streams ?? []).filter((/** @type {Message} */ info) => !this.#byId.has(info.stream_id));
    this.#emit("session", { sessionId: this.sessionId, active });
  }

  /**
   * With between a fifth and three tenths of its time left a token is renewed; a short one in a second.
   * @param {Message} message
   * @param {number} now
   */
  #expires({ expires_in }, now) {
    const delay = this.#canRenew ? expires_in * (700 + 100 * this.#random()) : NaN;
    this.#renewAt = delay >= 0 ? now + Math.max(LEAST_RENEW_MS, delay) : Infinity;
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  #beaten({ timestamp }, now) {
    if (timestamp === this.#sentBeatAt / 1000) this.roundTripMs = now - this.#sentBeatAt;
  }

  // -- streams

  /** @param {StreamRecord} stream */
  #add(stream) {
    if (this.streams.size >= MAX_STREAMS) throw new RangeError("Too many streams at once.");
    this.streams.add(stream);
    this.#attach(stream);
    return stream;
  }

  /** @param {StreamRecord} stream asks for it on this connection */
  #attach(stream) {
    if (this.state !== "connected" || stream.link !== "off" || stream.outcome || stream.askAt < Infinity) return;
    if (!stream.started) return this.#sendRequest(stream);
    if (stream.overflowed && stream.rendered < stream.received) return;
    this.#sendResume(stream);
    this.#sendCancel(stream);
  }

  /** @param {StreamRecord} stream */
  #sendRequest(stream) {
    const { requestId: request_id, message, messages, config, sessionId } = stream.asked;
    stream.askAt = Infinity;
    stream.link = "asked";
    stream.sent = true;
    this.#send({ type: "chat_request", request_id, session_id: sessionId, message, messages, config });
  }

  /** @param {StreamRecord} stream */
  #sendResume(stream) {
    const { streamId: stream_id, rendered: last_chunk_id, epoch, seam } = stream;
    const cut = seam > last_chunk_id;
    const window = cut ? seam - last_chunk_id : undefined;
    stream.link = "asked";
    stream.overflowed = false;
    stream.ackAt = Infinity;
    stream.acked = stream.rendered;
    stream.resumes += 1;
    this.#send({ type: "resume_stream", stream_id, last_chunk_id, epoch, window, snapshot: (stream.snapshot && !cut) || undefined });
  }

  /** @param {StreamRecord} stream */
  #sendCancel(stream) {
    if (!stream.cancelled || !stream.streamId || stream.outcome || this.state !== "connected") return;
    this.#send({ type: "cancel_stream", stream_id: stream.streamId });
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   */
  #queued(stream, { stream_id, position }) {
    stream.position = position;
    this.#name(stream, stream_id);
    this.#news("queued", { stream, position });
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
    this.#news("start", { stream });
  }

  /**
   * @param {StreamRecord} stream
   * @param {Message} message
   */
  #resumed(stream, { epoch, window, last_chunk_id, tail_chunk_id }) {
    if (stream.link === "off" || last_chunk_id !== stream.rendered) return;
    this.#live(stream, epoch, window);
    this.#news("resumed", { stream, tail: tail_chunk_id });
  }

  /**
   * @param {StreamRecord} stream
   * @param {string|undefined} epoch
   * @param {number|undefined} window
   */
  #live(stream, epoch, window) {
    stream.link = "live";
    stream.position = 0;
    stream.epoch = epoch ?? stream.epoch;
    stream.open(window ?? this.#window);
  }

  /**
   * The id may be what a cancel was waiting for.
   * @param {StreamRecord} stream
   * @param {string} streamId
   */
  #name(stream, streamId) {
    if (stream.streamId === streamId) return;
    stream.streamId = streamId;
    this.#byId.set(streamId, stream);
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
    this.#news("contentChunk", { stream, chunkId: last, firstChunkId: first, kind: kind ?? "text", content });
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
    this.#news("rewind", { stream, reason });
    if (!exact) this.#fetchTo(stream, to_chunk_id);
    else if (stream.left) this.rendered(stream, chunk_id, now);
  }

  /**
   * A batch has no seams: where nobody says how much of it is withdrawn, the part that stays is fetched again, in a window
   * that ends where the part does.
   * @param {StreamRecord} stream
   * @param {number} seam
   */
  #fetchTo(stream, seam) {
    stream.seam = seam;
    stream.forgetUnseen();
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
    if (stream.bufferedPieces >= this.#maxBufferedPieces || stream.bufferedBytes >= this.#maxBufferedBytes) return this.#overflow(stream);
    stream.gaps = 0;
    this.#tries = 0;
    return true;
  }

  /** @param {StreamRecord} stream */
  #overflow(stream) {
    stream.link = "off";
    stream.overflowed = true;
    stream.ackAt = Infinity;
    return false;
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} received
   */
  #gap(stream, received) {
    this.#emit("chunkGap", { stream, expected: stream.received + 1, received });
    stream.forgetUnseen();
    this.#again(stream);
    return false;
  }

  /** @param {StreamRecord} stream */
  #again(stream) {
    stream.link = "off";
    stream.gaps += 1;
    if (stream.gaps <= MAX_GAPS) this.#sendResume(stream);
    else this.#end(stream, { ok: false, error_type: "internal_error", message: "Part of the answer is missing", recoverable: false });
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
   * @param {Outcome} outcome
   */
  #end(stream, outcome) {
    stream.outcome = outcome;
    stream.askAt = Infinity;
    if (stream.link !== "live") this.#forget(stream);
    else if (stream.rendered === stream.received) this.#ack(stream, 0);
    this.#emit("change", { stream });
    if (!outcome.ok) this.#emit("streamError", { stream, outcome });
    if (!outcome.ok && !outcome.recoverable) this.#emit("streamFailed", { stream, outcome });
    if (outcome.ok) this.#emit("complete", { stream, outcome });
    this.#emit("end", { stream, outcome });
  }

  /**
   * @param {StreamRecord} stream
   * @param {number} now
   */
  #ack(stream, now) {
    stream.ackAt = Infinity;
    if (stream.rendered > stream.acked) {
      stream.acked = stream.rendered;
      stream.ackedBytes = stream.shownBytes;
      this.counts.acks += 1;
      const window = stream.seam ? this.#reopened(stream) : this.#moved(stream, now);
      this.#send({ type: "chunk_ack", stream_id: stream.streamId, chunk_id: stream.acked, window });
    }
    if (stream.outcome && stream.acked === stream.received) this.#forget(stream);
  }

  /**
   * The window to ask for beside an ack, where the one there is does not fit its reader any more: the mirror of
   * `WishedWindow` in wsstream/flow.py, which says why.
   * @param {StreamRecord} stream
   * @param {number} now
   */
  #moved(stream, now) {
    if (!this.#most || stream.outcome) return;
    const { acked, window } = stream;
    const [[before, since], last] = stream.acks;
    stream.acks = [last, [acked, now]];
    const [needed, there] = [(acked - before) * this.#span, window * (now - since)];
    const most = Math.max(this.#most, stream.least);
    const calm = 4 * needed < there;
    if (needed > there) stream.window = Math.min(2 * window, most);
    if (!calm || now - stream.busyAt >= CALM_MS) {
      stream.busyAt = now;
      if (calm) stream.window = Math.max(window >> 1, stream.least);
    }
    stream.ackFrom = stream.window === most ? now + ACK_GAP_MS : now;
    return stream.window === window ? undefined : stream.window;
  }

  /** @param {StreamRecord} stream the window to go back to, once what a rewind left has been fetched */
  #reopened(stream) {
    if (stream.rendered < stream.seam) return;
    stream.seam = 0;
    stream.open(this.hello.window ?? this.#window);
    return stream.window;
  }

  /** @param {StreamRecord} stream */
  #unlink(stream) {
    stream.link = "off";
    stream.ackAt = stream.askAt = Infinity;
    stream.refusals = 0;
    if (stream.outcome) this.#forget(stream);
    else if (!stream.overflowed) stream.forgetUnseen();
  }

  /** @param {StreamRecord} stream */
  #forget(stream) {
    this.streams.delete(stream);
    if (stream.streamId && this.#byId.get(stream.streamId) === stream) this.#byId.delete(stream.streamId);
  }

  /** @param {Message} message */
  #find({ stream_id, request_id }) {
    const known = stream_id && this.#byId.get(stream_id);
    if (known) return known;
    return request_id && [...this.streams].find((stream) => stream.requestId === request_id);
  }

  // -- answers

  /**
   * @param {Message} message
   * @param {number} now
   */
  #error(message, now) {
    if (!message.request_id && !message.stream_id) {
      const refused = this.#renewing && ["unauthorized", "forbidden"].includes(message.error_type);
      if (refused) this.renewalFailed(now);
      else if (this.#questions.length) return this.#answer(message);
    }
    const stream = this.#find(message);
    if (!stream) return this.#complain(message, now);
    if (stream.outcome) return;
    const passing = message.error_type === "capacity" && message.recoverable && !stream.started && stream.refusals < MAX_REFUSALS;
    if (!passing) return this.#end(stream, { ...message, ok: false });
    stream.refusals += 1;
    stream.link = "off";
    stream.askAt = now + (message.retry_after ?? 1) * 1000;
    this.#emit("status", { stream, message: { type: "stream_status", status: "waiting", message: message.message } });
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  #complain(message, now) {
    if (message.retry_after) this.#notBefore = now + message.retry_after * 1000;
    this.#emit("error", { message });
  }

  /** @param {Message} message */
  #answer(message) {
    const question = this.#questions.shift();
    if (!question) return;
    question.settle(message);
    this.#emit(message.type, { message });
    this.#ask();
  }

  #ask() { if (this.#questions.length && this.state === "connected") this.#send(this.#questions[0].message); }

  // -- losing and finding

  /**
   * @param {number} code
   * @param {number} now
   */
  #decide(code, now) {
    if (code === CLOSE_UNAUTHORIZED && this.#canRenew && !this.#renewed) {
      this.#renewed = true;
      return this.#wait(code, now, 0);
    }
    const final = isFinal(code);
    if (final || code === CLOSE_UNAUTHORIZED) return this.#stop(final);
    if (this.#tries < this.maxTries || !this.online) return this.#wait(code, now, null);
    this.#emit("maxRetriesExceeded", { attempts: this.#tries });
    this.#stop(false);
  }

  /**
   * @param {number} code
   * @param {number} now
   * @param {number|null} least
   */
  #wait(code, now, least) {
    const told = least ?? this.#retryIn ?? (this.#notBefore > now ? this.#notBefore - now : null);
    const delay = reconnectDelay(this.#tries, this.#random(), { code, toldMs: told });
    if (this.online) this.#tries += 1;
    if (told) this.#notBefore = now + told;
    this.#retryIn = null;
    this.retryAt = now + delay;
    this.#setState("waiting");
    this.#emit("recoveryAttempt", { attempt: this.#tries, delayMs: delay });
  }

  /** @param {boolean} final where a new token or a later try can help, unfinished streams wait for `connect` */
  #stop(final) {
    this.retryAt = Infinity;
    this.#setState("stopped");
    if (final) {
      const message = `The connection was closed for good (${this.closeCode}).`;
      for (const stream of this.streams) this.#end(stream, { ok: false, error_type: "interrupted", message, recoverable: false });
      for (const question of this.#questions.splice(0)) question.settle(null);
    }
    this.#emit("disconnected", { code: this.closeCode, reason: this.closeReason });
  }

  /** @param {number} now */
  #dial(now) {
    if (this.closeCode) this.counts.reconnects += 1;
    this.#heardAt = now;
    this.#timeout = CONNECT_TIMEOUT_MS;
    this.#setState("connecting");
    this.#emit("open");
  }

  /** @param {number} now */
  #giveUp(now) {
    this.#emit("close", { code: CLOSE_TIMEOUT });
    this.disconnected(CLOSE_TIMEOUT, now, { reason: "no sign of life" });
  }

  /** @param {number} now */
  #beat(now) {
    this.#beatAt = now + this.#interval;
    this.#sentBeatAt = now;
    this.#send({ type: "heartbeat", timestamp: now / 1000 });
  }

  get #linked() { return this.state === "connecting" || this.state === "connected"; }
  /** Whether it ran out of tries, which a network that is back makes good. */
  get gaveUp() { return this.state === "stopped" && !isFinal(this.closeCode) && this.closeCode !== CLOSE_UNAUTHORIZED; }
  get #isOver() { return this.state === "stopped" && isFinal(this.closeCode); }

  /** @param {State} state */
  #setState(state) {
    const previous = this.state;
    this.state = state;
    this.#emit("stateChange", { state, previous });
  }

  /**
   * @param {string} type
   * @param {Record<string, any>} [detail]
   */
  #emit(type, detail = {}) { this.#events.push({ ...detail, type }); }

  /**
   * Something that shows.
   * @param {string} type
   * @param {Record<string, any>} detail
   */
  #news(type, detail) {
    this.#emit(type, detail);
    this.#emit("change", detail);
  }

  /** @param {object} message */
  #say(message) {
    if (this.state === "connected") this.#send(message);
    return this.state === "connected";
  }

  /** @param {object} message */
  #send(message) {
    const text = encode(message);
    this.counts.bytesSent += utf8Length(text);
    this.#sends.push(text);
  }
}
