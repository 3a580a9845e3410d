/**
 * The browser's end of wsstream.v1, in one file without dependencies.
 *
 *   Session       the protocol: text in, text and events out. No socket, no timer, no clock, no randomness of its own.
 *   StreamClient  owns the WebSocket and the one timer, and turns the session's events into DOM events.
 *   ChatStream    one answer, as the page sees it.
 *
 * All times inside are milliseconds of a clock that never steps back; the wire speaks seconds.
 */

export const SUBPROTOCOL = "wsstream.v1";
/** An ack waits this long for company. The protocol allows 250; acks are thereby always at least this far apart, or half a window. */
const ACK_DELAY_MS = 200;
const CONNECT_TIMEOUT_MS = 10_000;
const BACKOFF_FIRST_MS = 1_000;
const BACKOFF_LIMIT_MS = 30_000;
/** A server that leaves the same hole after this many resumes will leave it for ever. */
const MAX_GAPS = 3;
const CLOSE_TIMEOUT = 3008;
const CLOSE_UNAUTHORIZED = 3000;
/** Closes that another try would only repeat: done, forbidden, or a bug in one of the two programs. */
const FINAL_CLOSES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 3003, 4400, 4406, 4409]);
const RESUME_ERRORS = new Set(["unknown_stream", "log_trimmed", "resume_ahead"]);

/**
 * What the session knows about one stream.
 * @typedef {{ok: boolean, finish_reason?: string, error_type?: string, message?: string, [field: string]: any}} Outcome
 */
export class StreamRecord {
  /** Ends of the pieces received, so that a rewind knows how much text to withdraw. */
  #marks = [];
  epoch; text = ""; position = 0;
  /** Chunk ids: the last with no gap before it, the last shown, the last acknowledged. */
  received = 0; rendered = 0; acked = 0;
  window = 50; ackAt = Infinity;
  /** @type {"off"|"asked"|"live"} whether this connection delivers the stream; what comes while it is not live is stale. */
  link = "off";
  sent = false; started = false; cancelled = false;
  resumes = 0; gaps = 0;
  /** @type {Outcome|null} */
  outcome = null;

  /** @param {{requestId?: string, streamId?: string, message?: string, messages?: object[], config?: object}} fields */
  constructor({ requestId, streamId, message, messages, config }) {
    Object.assign(this, { requestId, streamId, message, messages, config });
  }

  get inFlight() { return this.received - this.acked; }

  /** What its reader has already, for example from the session's history: it goes on behind that. */
  begin(lastChunkId, text) {
    if (!lastChunkId) return;
    this.append(1, lastChunkId, "text", text);
    this.rendered = this.acked = lastChunkId;
  }

  append(first, last, kind, content) {
    if (kind === "text") this.text += content;
    this.#mark(first, last);
  }

  /** @returns {boolean} false when the target lies inside a merged batch: then the text goes back to the batch's start. */
  rewind(chunkId, toChunkId) {
    while (this.#marks.length && this.#marks.at(-1).first > toChunkId) this.#marks.pop();
    const exact = !this.#marks.length || this.#marks.at(-1).last <= toChunkId;
    if (!exact) this.#marks.pop();
    const kept = this.#marks.at(-1) ?? { last: 0, end: 0 };
    this.text = this.text.slice(0, kept.end);
    if (exact) this.#mark(chunkId, chunkId);
    else this.received = kept.last;
    this.rendered = Math.min(this.rendered, this.received);
    this.acked = Math.min(this.acked, this.received);
    return exact;
  }

  #mark(first, last) {
    this.#marks.push({ first, last, end: this.text.length });
    this.received = last;
  }
}

export class Session {
  #sends = []; #events = [];
  #byId = new Map();
  #heardAt = 0; #beatAt = Infinity; #interval = 0; #timeout = CONNECT_TIMEOUT_MS;
  #tries = 0; #retryIn = null; #notBefore = 0;
  /** @type {Set<StreamRecord>} */
  streams = new Set();
  /** @type {"idle"|"connecting"|"connected"|"waiting"|"stopped"} */
  state = "idle";
  retryAt = Infinity; closeCode = 0;

  /** @param {{random: () => number, sessionId?: string, hello?: object, maxTries?: number}} options */
  constructor({ random, sessionId, hello = {}, maxTries = 5 }) {
    Object.assign(this, { random, sessionId, hello, maxTries });
  }

  /** What is to be sent and what has happened since the last call. */
  take() { return { sends: this.#sends.splice(0), events: this.#events.splice(0) }; }

  /** When `tick` wants to be called next. */
  timer() {
    if (this.state === "waiting") return this.retryAt;
    if (!this.#linked) return Infinity;
    let at = Math.min(this.#heardAt + this.#timeout, this.#beatAt);
    for (const stream of this.streams) at = Math.min(at, stream.ackAt);
    return at;
  }

  tick(now) {
    if (this.state === "waiting" && now >= this.retryAt) return this.#dial(now);
    if (!this.#linked) return;
    if (now >= this.#heardAt + this.#timeout) return this.#giveUp(now);
    if (now >= this.#beatAt) this.#beat(now);
    for (const stream of this.streams) if (now >= stream.ackAt) this.#ack(stream);
  }

  /** The user asks for a connection: that ends a wait and forgives earlier failures. */
  connect(now) {
    if (this.#linked) return;
    this.#tries = 0;
    this.#dial(now);
  }

  /** The socket is open. */
  opened(now) {
    this.#heardAt = now;
    this.#send({ type: "hello", session_id: this.sessionId, client: "wsstream.js", ...this.hello });
  }

  /** The socket is gone. What was unfinished stays, to be resumed, unless the close is final. */
  disconnected(code, now) {
    for (const stream of this.streams) {
      Object.assign(stream, { link: "off", ackAt: Infinity });
      if (stream.outcome) this.#forget(stream);
    }
    this.#beatAt = Infinity;
    this.closeCode = code;
    const final = FINAL_CLOSES.has(code);
    if (final || code === CLOSE_UNAUTHORIZED || this.#tries >= this.maxTries) this.#stop(final);
    else this.#wait(code, now);
  }

  /** Starts an answer, or keeps the request until there is a connection. */
  request(fields) {
    const stream = new StreamRecord(fields);
    this.streams.add(stream);
    this.#attach(stream);
    return stream;
  }

  /** Follows a stream that somebody else started, for example this page before it was reloaded. What was missed comes at once. */
  follow(streamId, { lastChunkId = 0, text = "" } = {}) {
    const stream = new StreamRecord({ streamId });
    stream.sent = stream.started = stream.snapshot = true;
    stream.begin(lastChunkId, text);
    this.streams.add(stream);
    this.#byId.set(streamId, stream);
    this.#attach(stream);
    return stream;
  }

  /** Asks for the session's messages; they come as the event `history`, unless the connection is lost before. */
  askHistory() { if (this.state === "connected") this.#send({ type: "get_history" }); }

  cancel(stream) {
    if (stream.outcome) return;
    stream.cancelled = true;
    if (stream.sent) this.#sendCancel(stream);
    else this.#end(stream, { ok: true, finish_reason: "cancelled" });
  }

  /** The reader has dealt with everything up to this chunk. */
  rendered(stream, chunkId, now) {
    const upTo = Math.min(chunkId, stream.received);
    if (upTo <= stream.rendered) return;
    stream.rendered = upTo;
    if (stream.link !== "live") return this.#attach(stream);
    if (upTo - stream.acked >= stream.window / 2) this.#ack(stream);
    else if (stream.ackAt === Infinity) stream.ackAt = now + ACK_DELAY_MS;
  }

  /** @param {string} text one message from the server */
  receive(text, now) {
    const message = parse(text);
    this.#heardAt = now;
    switch (message.type) {
      case "connection_established": return this.#established(message, now);
      case "heartbeat": return this.#send({ type: "heartbeat_ack", timestamp: message.timestamp });
      case "heartbeat_ack": this.#tries = 0; return;
      case "going_away": this.#retryIn = message.reconnect_after_ms ?? null; return this.#emit("going_away", { message });
      case "history":
      case "session_changed": return this.#emit(message.type, { message });
      case "error": return this.#error(message, now);
    }
    const stream = this.#find(message);
    if (stream && !stream.outcome) this.#streamMessage(stream, message);
  }

  #streamMessage(stream, message) {
    switch (message.type) {
      case "stream_queued": return this.#queued(stream, message);
      case "stream_start":
      case "stream_resumed": return this.#live(stream, message);
      case "content_chunk": return this.#chunk(stream, message.chunk_id, message.chunk_id, message);
      case "chunk_batch": return this.#chunk(stream, message.first_chunk_id, message.last_chunk_id, message);
      case "stream_rewind": return this.#rewind(stream, message);
      case "stream_status": return this.#emit("status", { stream, message });
      case "stream_complete": return this.#complete(stream, message);
      // Cut off by us after a gap: whatever it says comes again after the resume, in its place.
      case "stream_error": if (stream.link !== "off") this.#end(stream, { ...message, ok: false });
    }
  }

  #established(message, now) {
    this.sessionId = message.session_id;
    this.#interval = (message.heartbeat_interval ?? 15) * 1000;
    this.#timeout = (message.heartbeat_timeout ?? 45) * 1000;
    this.#beatAt = now + this.#interval;
    this.#retryIn = null;
    this.#notBefore = 0;
    this.#setState("connected");
    for (const stream of this.streams) {
      this.#sendCancel(stream);
      this.#attach(stream);
    }
    const active = (message.active_streams ?? []).filter(({ stream_id }) => !this.#byId.has(stream_id));
    this.#emit("session", { sessionId: this.sessionId, active });
  }

  /** Asks for a stream on this connection. */
  #attach(stream) {
    if (this.state !== "connected" || stream.link !== "off" || stream.outcome) return;
    if (!stream.started) this.#sendRequest(stream);
    // A resume acknowledges everything before it. Sent before the reader has caught up, it would hand a
    // reader who stands still a new window with every reconnect.
    else if (stream.rendered >= stream.received) this.#sendResume(stream);
  }

  #sendRequest(stream) {
    const { requestId: request_id, message, messages, config } = stream;
    stream.link = "asked";
    stream.sent = true;
    this.#send({ type: "chat_request", request_id, session_id: this.sessionId, message, messages, config });
  }

  #sendResume(stream) {
    stream.link = "asked";
    stream.acked = stream.received;
    stream.resumes += 1;
    const { streamId: stream_id, received: last_chunk_id, epoch, snapshot } = stream;
    this.#send({ type: "resume_stream", stream_id, last_chunk_id, epoch, snapshot });
  }

  #sendCancel(stream) {
    if (!stream.cancelled || !stream.streamId || stream.outcome || this.state !== "connected") return;
    this.#send({ type: "cancel_stream", stream_id: stream.streamId });
  }

  #queued(stream, { stream_id, position }) {
    this.#name(stream, stream_id);
    stream.position = position;
    this.#emit("change", { stream });
  }

  #live(stream, { stream_id, window, epoch }) {
    this.#name(stream, stream_id);
    Object.assign(stream, { link: "live", started: true, position: 0 });
    stream.window = window ?? stream.window;
    stream.epoch = epoch ?? stream.epoch;
    this.#emit("change", { stream });
  }

  /** The id may be what a cancel was waiting for. */
  #name(stream, streamId) {
    if (stream.streamId === streamId) return;
    stream.streamId = streamId;
    this.#byId.set(streamId, stream);
    this.#sendCancel(stream);
  }

  #chunk(stream, first, last, { kind = "text", content }) {
    if (!this.#isNext(stream, first, last)) return;
    stream.append(first, last, kind, content);
    this.#emit("change", { stream, kind, content });
  }

  #rewind(stream, { chunk_id, to_chunk_id, reason }) {
    if (!this.#isNext(stream, chunk_id, chunk_id)) return;
    const exact = stream.rewind(chunk_id, to_chunk_id);
    this.#emit("rewind", { stream, reason });
    if (!exact) this.#gap(stream);
    this.#emit("change", { stream });
  }

  /** A batch that overlaps what is here cannot be cut, so it counts as a gap. */
  #isNext(stream, first, last) {
    if (stream.link !== "live" || last <= stream.received) return false;
    if (first !== stream.received + 1) return this.#gap(stream);
    stream.gaps = 0;
    this.#tries = 0;
    return true;
  }

  #gap(stream) {
    stream.link = "off";
    stream.ackAt = Infinity;
    stream.gaps += 1;
    if (stream.gaps <= MAX_GAPS) this.#attach(stream);
    else this.#end(stream, { ok: false, error_type: "internal_error", message: "Part of the answer is missing." });
    return false;
  }

  #complete(stream, message) {
    if (stream.link !== "live") return;
    if (message.final_chunk_id > stream.received) this.#gap(stream);
    else this.#end(stream, { ...message, ok: true });
  }

  #error(message, now) {
    const stream = this.#find(message) ?? this.#refusedResume(message);
    if (stream && !stream.outcome) return this.#end(stream, { ...message, ok: false });
    if (message.retry_after) this.#notBefore = now + message.retry_after * 1000;
    this.#emit("error", { message });
  }

  /** `error` names no stream, but answers come in the order of the questions. */
  #refusedResume({ error_type }) {
    if (RESUME_ERRORS.has(error_type)) return [...this.streams].find((stream) => stream.started && stream.link === "asked");
  }

  #end(stream, outcome) {
    stream.outcome = outcome;
    if (stream.link !== "live" || stream.acked === stream.received) this.#forget(stream);
    this.#emit("change", { stream });
    this.#emit("end", { stream });
  }

  #ack(stream) {
    stream.ackAt = Infinity;
    stream.acked = stream.rendered;
    this.#send({ type: "chunk_ack", stream_id: stream.streamId, chunk_id: stream.acked });
    if (stream.outcome && stream.acked === stream.received) this.#forget(stream);
  }

  #forget(stream) {
    this.streams.delete(stream);
    this.#byId.delete(stream.streamId);
  }

  #find({ stream_id, request_id }) {
    if (stream_id && this.#byId.has(stream_id)) return this.#byId.get(stream_id);
    if (request_id) return [...this.streams].find((stream) => stream.requestId === request_id);
  }

  #wait(code, now) {
    const backoff = this.random() * Math.min(BACKOFF_LIMIT_MS, BACKOFF_FIRST_MS * 2 ** this.#tries);
    const usual = code === CLOSE_TIMEOUT && this.#tries === 0 ? 0 : backoff;
    const told = this.#notBefore > now ? this.#notBefore - now : null;
    this.#tries += 1;
    this.retryAt = now + (this.#retryIn ?? told ?? usual);
    this.#setState("waiting");
  }

  /** Where a new token or a later try can help, unfinished streams wait for `connect`. */
  #stop(final) {
    this.#setState("stopped");
    if (!final) return;
    const message = `The connection was closed for good (${this.closeCode}).`;
    for (const stream of this.streams) this.#end(stream, { ok: false, error_type: "interrupted", message });
  }

  #dial(now) {
    this.#heardAt = now;
    this.#timeout = CONNECT_TIMEOUT_MS;
    this.#setState("connecting");
    this.#emit("open");
  }

  #giveUp(now) {
    this.#emit("close", { code: CLOSE_TIMEOUT });
    this.disconnected(CLOSE_TIMEOUT, now);
  }

  #beat(now) {
    this.#beatAt = now + this.#interval;
    this.#send({ type: "heartbeat", timestamp: now / 1000 });
  }

  get #linked() { return this.state === "connecting" || this.state === "connected"; }
  #setState(state) { this.state = state; this.#emit("state"); }
  #emit(type, detail = {}) { this.#events.push({ type, ...detail }); }
  #send(message) { this.#sends.push(JSON.stringify(message)); }
}

/** A message this client cannot read is no reason to lose the connection. */
function parse(text) {
  try { return JSON.parse(text) ?? {}; } catch { return {}; }
}

/** `crypto.randomUUID` is missing on plain http, where people first try this from a phone. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function dispatch(target, type, detail) {
  target.dispatchEvent(Object.assign(new Event(type), { detail }));
}

/**
 * One answer. Events: `change`, `rewind` (text was withdrawn), `status`, `end`.
 * Either iterate (asking for the next piece acknowledges the one before) or listen to `change`,
 * show `text` and call `rendered`. Whoever does neither makes the server wait once the window is full.
 */
export class ChatStream extends EventTarget {
  #run;
  /** @param {StreamRecord} info read it, do not write to it */
  constructor(info, run) { super(); this.info = info; this.#run = run; }
  get text() { return this.info.text; }
  get lastChunkId() { return this.info.received; }
  get outcome() { return this.info.outcome; }
  rendered(chunkId) { this.#run((session, now) => session.rendered(this.info, chunkId, now)); }
  cancel() { this.#run((session) => session.cancel(this.info)); }

  /** Text as it comes, what has gathered meanwhile in one piece. What a rewind withdraws has been handed out already: `text` is right. */
  async *[Symbol.asyncIterator]() {
    let at = 0;
    this.addEventListener("rewind", () => { at = Math.min(at, this.text.length); });
    for (;;) {
      const [id, piece] = [this.lastChunkId, this.text.slice(at)];
      at += piece.length;
      if (piece) yield piece;
      this.rendered(id);
      if (id !== this.lastChunkId) continue;
      if (this.outcome) break;
      await new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
    }
    if (!this.outcome.ok) throw Object.assign(new Error(this.outcome.message), { outcome: this.outcome });
  }
}

/** Events: `state`, `session` (detail.active: streams to follow), `history`, `session_changed`, `error`, `going_away`. */
export class StreamClient extends EventTarget {
  #views = new Map();
  #socket = null;
  #timer = 0;

  /** @param {string|URL} url @param {{sessionId?: string, hello?: object, maxTries?: number}} [options] */
  constructor(url, options = {}) {
    super();
    this.url = url;
    this.session = new Session({ random: Math.random, ...options });
  }

  get state() { return this.session.state; }
  get retryInMs() { return Math.max(0, this.session.retryAt - performance.now()); }
  connect() { this.#run((session, now) => session.connect(now)); }
  /** Ends everything, here; a stream goes on at the server unless it is cancelled. */
  close() { this.#lose(1000, 1000); }
  /** Loses the connection on purpose. The client comes back by itself and resumes. */
  drop() { if (this.#socket) this.#lose(4000, 4000); }

  /**
   * @param {string|object[]} prompt the next message of the session's conversation, or all messages of one
   * @returns {ChatStream}
   */
  chat(prompt, config = {}) {
    const asked = typeof prompt === "string" ? { message: prompt } : { messages: prompt };
    return this.#view((session) => session.request({ requestId: newId(), ...asked, config }));
  }

  /**
   * @param {{lastChunkId?: number, text?: string}} [from] what the page has of it already
   * @returns {ChatStream}
   */
  follow(streamId, from) { return this.#view((session) => session.follow(streamId, from)); }

  /** Has the session's messages come as the event `history`. */
  askHistory() { this.#run((session) => session.askHistory()); }

  #view(start) {
    return this.#run((session, now) => {
      const view = new ChatStream(start(session), (step) => this.#run(step));
      this.#views.set(view.info, view);
      return view;
    });
  }

  /** Every input goes through here: hand it to the session, then do what the session says. */
  #run(step) {
    const now = performance.now();
    const result = step(this.session, now);
    this.session.tick(now);
    const { sends, events } = this.session.take();
    for (const text of sends) this.#socket?.send(text);
    for (const event of events) this.#handle(event);
    this.#arm();
    return result;
  }

  #handle({ type, stream, ...detail }) {
    if (type === "open") return this.#open();
    if (type === "close") return this.#discard(detail.code);
    dispatch(this.#views.get(stream) ?? this, type, detail);
    if (type === "end") this.#views.delete(stream);
  }

  #open() {
    const socket = this.#socket = new WebSocket(this.url, SUBPROTOCOL);
    socket.onopen = () => this.#run((session, now) => session.opened(now));
    socket.onmessage = ({ data }) => this.#run((session, now) => session.receive(data, now));
    socket.onclose = ({ code }) => this.#lose(code);
  }

  #lose(code, closing) {
    this.#discard(closing);
    this.#run((session, now) => session.disconnected(code, now));
  }

  /** On a dead network the browser reports a close much later; nobody waits for that here. */
  #discard(code) {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (code) socket.close(code);
  }

  #arm() {
    clearTimeout(this.#timer);
    const at = this.session.timer();
    if (at < Infinity) this.#timer = setTimeout(() => this.#run(() => {}), Math.max(0, at - performance.now()));
  }
}
