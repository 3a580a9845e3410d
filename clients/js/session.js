/**
 * The client's end of wsstream.v1: messages in, messages and events out. No socket, no timer, no clock, no randomness of
 * its own; `now` is milliseconds of a clock that never steps back, the wire speaks seconds. The mirror of
 * `wsstream.client_protocol`, held to it by the cases in tests/vectors.
 *
 * Whoever owns the socket calls a method, then `take()`, sends what it gives and acts on its events, and calls `tick`
 * when `timer()` is due.
 *
 * This is the connection: greeting, loss, and who gets which message. What else there is has a module each: the streams
 * (streams.js), one stream (record.js), acks and windows (flow.js), tries (backoff.js), signs of life (heartbeat.js),
 * tokens (renewal.js), history (questions.js), and what is to be said (outbox.js).
 */
import { Backoff, CLOSE_TIMEOUT, CLOSE_UNAUTHORIZED, isFinal } from "./backoff.js";
import { Heartbeat } from "./heartbeat.js";
import { decode, utf8Length } from "./messages.js";
import { Outbox } from "./outbox.js";
import { Questions } from "./questions.js";
import { Renewal } from "./renewal.js";
import { Streams } from "./streams.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./record.js").StreamRecord} StreamRecord */
/** @typedef {import("./record.js").Asked} Asked */
/** @typedef {import("./outbox.js").SessionEvent} SessionEvent */
/** @typedef {"idle"|"connecting"|"connected"|"waiting"|"stopped"} State */

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

/** What a greeting's way counts for at the most: it may have waited for somebody's approval. */
const LONGEST_TRIP_MS = 1_000;

export class Session {
  #out = new Outbox();
  #questions = new Questions(this.#out);
  #heartbeat = new Heartbeat();
  #streams; #backoff; #renewal; #adaptive;
  #greetedAt = 0;
  /** @type {State} */
  state = "idle";
  /** @type {string|undefined} */ sessionId;
  /** @type {string|undefined} */ connectionId;
  retryAt = Infinity; closeCode = 0; closeReason = "";
  /** What the browser thinks of the network. Tries without one do not count. */
  online = true;

  /** @param {SessionOptions} [options] */
  constructor(options = {}) {
    const { random = () => 0.5, sessionId, hello = {}, maxTries = 5, canRenew = false, adaptive = true } = options;
    this.#backoff = new Backoff(random);
    this.#renewal = new Renewal(canRenew ? random : null);
    this.#streams = new Streams(this.#out, this.#backoff, options);
    /** Those that have not ended. */
    this.streams = this.#streams.all;
    this.#adaptive = adaptive;
    this.sessionId = sessionId;
    this.hello = hello;
    this.maxTries = maxTries;
  }

  /** Counts since the beginning. */
  counts = this.#out.counts;
  get roundTripMs() { return this.#heartbeat.roundTripMs; }

  /** What is to be sent and what has happened since the last call. */
  take() { return this.#out.take(); }

  /** When `tick` wants to be called next; Infinity for never. */
  timer() {
    if (this.state === "waiting") return this.retryAt;
    return this.#linked ? Math.min(this.#heartbeat.timer, this.#renewal.at, this.#streams.timer) : Infinity;
  }

  /** @param {number} now */
  tick(now) {
    if (this.state === "waiting" && now >= this.retryAt) return this.#dial(now);
    if (!this.#linked) return;
    this.#streams.tick(now);
    if (this.#renewal.isDue(now)) this.#out.emit("tokenWanted");
    if (now >= this.#heartbeat.deadline) {
      this.#out.emit("close", { code: CLOSE_TIMEOUT });
      return this.disconnected(CLOSE_TIMEOUT, now, { reason: "no sign of life" });
    }
    const beat = this.#heartbeat.beat(now);
    if (beat) this.#out.send(beat);
  }

  // -- the connection

  /**
   * The user asks for a connection: that ends a wait and forgives earlier failures.
   * @param {number} now
   */
  connect(now) {
    if (this.#linked) return;
    this.#backoff.tries = 0;
    this.#streams.over = "";
    this.#dial(now);
  }

  /**
   * The socket is open.
   * @param {number} now
   * @param {string} [token]
   */
  opened(now, token) {
    this.#heartbeat.heard(now);
    this.#greetedAt = now;
    this.#out.maxMessage = undefined;
    this.#out.send({ type: "hello", token, session_id: this.sessionId, client: "wsstream.js", ...this.hello });
  }

  /**
   * The socket is gone. What was unfinished stays, to be resumed, unless the close is final.
   * @param {number} code
   * @param {number} now
   * @param {{reason?: string, retryAfterMs?: number|null}} [why]
   */
  disconnected(code, now, { reason = "", retryAfterMs } = {}) {
    if (!this.#linked) return;
    const established = this.state === "connected";
    this.#streams.lost();
    this.#backoff.lost(now);
    this.#renewal.stop();
    this.#out.drop();
    this.closeCode = code;
    this.closeReason = reason;
    this.#backoff.toldMs ??= retryAfterMs;
    this.#out.emit(established ? "connectionLost" : "connectionError", { code, reason });
    this.#decide(code, now);
  }

  /** Ends it all here; streams go on at the server unless they are cancelled. */
  close() {
    this.#streams.lost();
    this.closeCode = 1000;
    this.closeReason = "";
    this.#stop();
  }

  /**
   * The machine woke up, the page came to the front, the network changed: what looks connected may be dead, and who
   * waits need not wait any longer.
   * @param {number} now
   */
  wake(now) {
    if (this.state === "waiting") this.retryAt = Math.min(this.retryAt, Math.max(now, this.#backoff.notBefore));
    else if (this.state === "connected") this.#heartbeat.probe(now);
  }

  // -- what the application wants

  /**
   * Starts an answer, or keeps the request until there is a connection. `again` says that its id was used before, so
   * that a cancel is told to the server whatever happens. One that cannot be sent, because it is too large or the
   * connection was closed for good, has ended when this returns: its `outcome` says why.
   * @param {Asked} asked
   */
  request(asked) { return this.#streams.request(asked); }

  /**
   * Follows a stream that somebody else started: another tab, or this page before it was reloaded. With `snapshot`,
   * what was missed comes at once.
   * @param {string} streamId
   * @param {import("./record.js").Known & {snapshot?: boolean}} [from] what the reader has of it already
   */
  follow(streamId, from) { return this.#streams.follow(streamId, from); }

  /**
   * Stops the answer, for everybody, as soon as the server can be told.
   * @param {StreamRecord} stream
   * @returns {boolean} false where it has ended already
   */
  cancel(stream) { return this.#streams.cancel(stream); }

  /**
   * Nobody here reads the stream any more; the answer goes on.
   * @param {StreamRecord} stream
   * @param {number} now
   */
  leave(stream, now) { this.#streams.leave(stream, now); }

  /**
   * The reader has dealt with everything up to this chunk.
   * @param {StreamRecord} stream
   * @param {number} chunkId
   * @param {number} now
   */
  rendered(stream, chunkId, now) { this.#streams.rendered(stream, chunkId, now); }

  /**
   * Asks for the session's streams, on this connection or the next; they come as the event `stream_list`, too.
   * @param {(answer: Message) => void} [settle] told the `stream_list`, or the `error`
   */
  list(settle) { this.#question("stream_list", { type: "list_streams" }, settle); }

  /**
   * Asks for a page of a session's messages, on this connection or the next.
   * @param {string} [sessionId]
   * @param {(answer: Message) => void} [settle] told the `history`, or the `error`: the server's, or one that says why it is not asked
   * @param {{before?: string, limit?: number}} [page] at most `limit` messages, all older than the one with the id `before`
   */
  askHistory(sessionId, settle, page) { this.#question("history", { type: "get_history", session_id: sessionId, ...page }, settle); }

  /**
   * @param {string} wanted
   * @param {object} message
   * @param {(answer: Message) => void} [settle]
   */
  #question(wanted, message, settle = () => {}) {
    this.#questions.add({ wanted, message, settle }, this.state === "connected");
    if (this.over) this.#questions.end(this.over);
  }

  /**
   * @param {string} title
   * @param {string} [sessionId]
   * @returns {boolean} false without a connection, or where it is too large
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
  renew(token) { this.#renewal.pending = this.#say({ type: "renew_token", token }); }

  /**
   * There is no new token to be had: one is wanted again, a little later each time.
   * @param {number} now
   */
  renewalFailed(now) { this.#renewal.failed(now); }

  // -- messages in

  /**
   * Never throws: what cannot be understood is counted and left alone.
   * @param {string} text one message from the server
   * @param {number} now
   */
  receive(text, now) {
    this.#heartbeat.heard(now);
    this.counts.messages += 1;
    this.counts.bytesReceived += utf8Length(text);
    const { message, known } = decode(text);
    if (known) return this.#on(message, now);
    this.counts.ignored += 1;
    this.#out.emit("unknownMessage", { message });
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  #on(message, now) {
    switch (message.type) {
      case "connection_established": return this.#established(message, now);
      case "heartbeat": return this.#say({ type: "heartbeat_ack", timestamp: message.timestamp });
      case "heartbeat_ack": return this.#heartbeat.answered(message, now);
      case "stream_list":
      case "history": return this.#questions.answer(message);
      case "token_renewed": this.#renewal.succeeded(message, now); return this.#tell(message);
      case "going_away": this.#backoff.toldMs = message.reconnect_after_ms;
      // falls through
      case "session_changed": return this.#tell(message);
      case "error": return this.#error(message, now);
    }
    this.#streams.receive(message, now);
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  #established(message, now) {
    const { limits } = message;
    const window = message.window ?? 50;
    const sessionId = this.sessionId = message.session_id;
    const connectionId = this.connectionId = message.connection_id;
    this.#out.maxMessage = limits?.max_message_bytes;
    this.#heartbeat.begin(message, now);
    this.#backoff.greeted(now);
    this.#renewal.expires(message, now);
    this.counts.connections += 1;
    this.#setState("connected");
    this.#out.emit("connected", { sessionId, connectionId, message });
    this.#streams.greeted({
      window, wished: this.hello.window ?? window, windowBytes: message.window_bytes ?? Infinity, most: this.#adaptive && limits?.max_window,
      roundTripMs: Math.min(now - this.#greetedAt, LONGEST_TRIP_MS),
    });
    this.#questions.ask();
    const active = (message.active_streams ?? []).filter((/** @type {Message} */ info) => !this.#streams.find(info));
    this.#out.emit("session", { sessionId, active });
  }

  /**
   * @param {Message} message
   * @param {number} now
   */
  #error(message, now) {
    if (!message.request_id && !message.stream_id) {
      if (this.#renewal.pending && ["unauthorized", "forbidden"].includes(message.error_type)) this.#renewal.failed(now);
      else if (this.#questions.count) return this.#questions.answer(message);
    }
    if (this.#streams.find(message)) return this.#streams.receive(message, now);
    if (message.retry_after) this.#backoff.notBefore = now + message.retry_after * 1000;
    this.#tell(message);
  }

  /** @param {Message} message one that the application reads as it is */
  #tell(message) { this.#out.emit(message.type, { message }); }

  // -- losing and finding

  /**
   * @param {number} code
   * @param {number} now
   */
  #decide(code, now) {
    const { tries } = this.#backoff;
    if (code === CLOSE_UNAUTHORIZED && this.#renewal.isAnswer()) this.#backoff.toldMs = 0;
    else {
      if (isFinal(code) || code === CLOSE_UNAUTHORIZED) return this.#stop();
      if (tries >= this.maxTries && this.online) {
        this.#out.emit("maxRetriesExceeded", { attempts: tries });
        return this.#stop();
      }
    }
    const delayMs = this.#backoff.wait(code, now, this.online);
    this.retryAt = now + delayMs;
    this.#setState("waiting");
    this.#out.emit("recoveryAttempt", { attempt: this.#backoff.tries, delayMs });
  }

  /** Where a new token or a later try can help, unfinished streams and questions wait for `connect`. */
  #stop() {
    this.retryAt = Infinity;
    this.#setState("stopped");
    if (isFinal(this.closeCode)) {
      const why = `Connection closed for good (${this.closeCode}${this.closeReason && `: ${this.closeReason}`}).`;
      this.#streams.finish(why);
      this.#questions.end(why);
    }
    this.#out.emit("disconnected", { code: this.closeCode, reason: this.closeReason });
  }

  /** @param {number} now */
  #dial(now) {
    if (this.closeCode) this.counts.reconnects += 1;
    this.#heartbeat.reset(now);
    this.#setState("connecting");
    this.#out.emit("open");
  }

  get #linked() { return this.state === "connecting" || this.state === "connected"; }
  /** Whether it ran out of tries, which a network that is back makes good. */
  get gaveUp() { return this.state === "stopped" && !this.over && this.closeCode !== CLOSE_UNAUTHORIZED; }
  /** Why nothing can be asked any more before somebody connects anew; empty where it can. */
  get over() { return this.#streams.over; }

  /** @param {State} state */
  #setState(state) {
    const previous = this.state;
    this.state = state;
    this.#out.emit("stateChange", { state, previous });
  }

  /** @param {object} message */
  #say(message) { return this.state === "connected" && !this.#out.send(message); }
}
