import { Emitter } from "./emitter.js";
import { Session } from "./session.js";
import { ChatStream } from "./stream.js";
import { http, TransportList, webSocket } from "./transport.js";

/** @typedef {import("./record.js").StreamRecord} StreamRecord */
/** @typedef {import("./record.js").Outcome} Outcome */
/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./transport.js").Transport} Transport */
/** @typedef {import("./transport.js").TransportFactory} TransportFactory */

/**
 * @typedef {object} ClientOptions
 * @property {string} [sessionId] the conversation to continue
 * @property {string|(() => string|undefined|Promise<string|undefined>)} [token] a function is called for every connection, so also after 3000, and again before a token runs out
 * @property {number} [window] chunks on the way and not yet rendered, where it is not the server's default
 * @property {number} [windowBytes] the same in bytes
 * @property {boolean} [adaptive] true: the window is widened, as far as the server allows, for a reader who would otherwise acknowledge more than 20 times a second
 * @property {Record<string, any>} [hello] further fields of the hello
 * @property {number} [maxTries] connections to try in a row without progress; 5
 * @property {TransportFactory[]} [transports] tried in order; a WebSocket, then event streams and POSTs
 * @property {number} [transportTries] how often one fails that was never established, before the next one is tried; 2
 * @property {number} [maxBufferedPieces] messages of one stream received and not rendered
 * @property {number} [maxBufferedBytes] the same in bytes
 */

/** `crypto.randomUUID` is missing on plain http, where people first try this from a phone. */
const newId = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

/** Moments at which a socket that looks open may be dead, or a wait may be over. */
const WAKING = ["online", "pageshow", "offline"];

/**
 * One session with a server, over any number of connections.
 *
 * Events: `stateChange`, `connected`, `connectionError`, `connectionLost`, `recoveryAttempt`, `maxRetriesExceeded`,
 * `disconnected`, `session` (`active`: streams that run and are not followed yet), `history`, `session_changed`,
 * `stream_list`, `going_away`, `error`, `tokenError`, `token_renewed`, `unknownMessage`; and those of all its streams, with the `stream`.
 */
export class StreamClient extends Emitter {
  /** @type {Map<StreamRecord, ChatStream>} */ #views = new Map();
  /** @type {Transport|null} */ #socket = null;
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #timer;
  #token; #transports;
  /** @type {string|undefined} */ #renewed;
  /** Counts the sockets, so that an answer for an old one is not taken for the new one's. */
  #generation = 0;
  /** @type {AbortController|null} what ends it */ #listening = null;

  /**
   * @param {string|URL} url of the WebSocket, `wss://…/ws`
   * @param {ClientOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    const { token, window, windowBytes, hello, transports = [webSocket, http], transportTries = 2, ...session } = options;
    this.url = String(url);
    this.#token = token;
    this.#transports = new TransportList(transports, transportTries);
    const wishes = { window, window_bytes: windowBytes, ...hello };
    this.session = new Session({ random: Math.random, canRenew: typeof token === "function", ...session, hello: wishes });
  }

  get state() { return this.session.state; }
  get sessionId() { return this.session.sessionId; }
  get connectionId() { return this.session.connectionId; }
  get retryInMs() { return Math.max(0, this.session.retryAt - performance.now()); }
  /** The streams that have not ended. */
  get streams() { return [...this.#views.values()]; }

  connect() {
    this.#listen();
    this.#transports.forgive();
    this.#run((session, now) => session.connect(now));
  }

  /** Ends everything, here; a stream goes on at the server unless it is cancelled. `connect` begins anew. */
  close() {
    this.#discard(1000);
    this.#listening?.abort();
    this.#listening = null;
    this.#run((session) => session.close());
  }

  /** Loses the connection on purpose. The client comes back by itself and resumes. */
  drop() { if (this.#socket) this.#lose({ code: 4000 }, 4000); }

  /** Asks whether the connection is alive, which also measures its round trip; one that is waited for is tried at once. */
  probe() { this.#run((session, now) => session.wake(now)); }

  /**
   * Asks for an answer.
   * @param {string|object[]} prompt the next message of the session's conversation, or all messages of one
   * @param {object} [config] `model`, `temperature` …: docs/protocol.md, "chat_request"
   * @param {{requestId?: string, sessionId?: string}} [options] the same `requestId` again attaches to the same answer
   * @returns {ChatStream}
   */
  chat(prompt, config = {}, { requestId, sessionId } = {}) {
    const asked = typeof prompt === "string" ? { message: prompt } : { messages: prompt };
    return this.#view((session) => session.request({ requestId: requestId ?? newId(), again: requestId !== undefined, ...asked, config, sessionId }));
  }

  /**
   * Follows an answer that another tab began, or this page before it was reloaded.
   * @param {string} streamId
   * @param {import("./record.js").Known & {snapshot?: boolean}} [from] what the page has of it already
   * @returns {ChatStream}
   */
  follow(streamId, from) { return this.#view((session) => session.follow(streamId, from)); }

  /**
   * The session's streams, as they are then, asked on this connection or the next.
   * @returns {Promise<{stream_id: string, last_chunk_id: number, state: string}[]>}
   */
  async list() { return (await this.#answer((session, settle) => session.list(settle))).streams; }

  /**
   * A session's messages, asked on this connection or the next.
   * @param {string} [sessionId]
   * @param {{before?: string, limit?: number}} [page] only what is older than the message with the id `before`. With a
   *   `limit` one page of so many, or fewer where they are large: its `more` says whether there are older ones. Without, all
   * @returns {Promise<Message>} the `history`
   */
  async history(sessionId, page) {
    const answer = await this.#answer((session, settle) => session.askHistory(sessionId, settle, page));
    if (page?.limit || !answer.more) return answer;
    const older = await this.history(sessionId, { before: answer.messages[0].id });
    return { ...older, messages: older.messages.concat(answer.messages) };
  }

  /**
   * @param {(session: Session, settle: (answer: Message) => void) => void} ask
   * @returns {Promise<Message>}
   */
  #answer(ask) {
    return new Promise((resolve, reject) => {
      this.#run((session) => ask(session, (answer) => {
        if (answer.type === "error") reject(Object.assign(new Error(answer.message), { answer }));
        else resolve(answer);
      }));
    });
  }

  /**
   * The answer is the event `session_changed`, here and in all connections of that session.
   * @param {string} title
   * @param {string} [sessionId]
   * @returns {boolean} false without a connection
   */
  rename(title, sessionId) { return this.#run((session) => session.rename(title, sessionId)); }

  /**
   * Deletes a session with all it holds; the answer is `session_changed`.
   * @param {string} [sessionId]
   * @returns {boolean} false without a connection
   */
  deleteSession(sessionId) { return this.#run((session) => session.forget(sessionId)); }

  /** Where everything stands: what a panel shows. */
  stats() {
    const { counts, roundTripMs, streams, state } = this.session;
    const sum = (/** @type {(stream: StreamRecord) => number} */ of) => [...streams].reduce((total, stream) => total + of(stream), 0);
    return {
      state,
      transport: this.#transports.label,
      roundTripMs,
      streams: streams.size,
      window: sum((stream) => stream.window),
      inFlight: sum((stream) => stream.inFlight),
      buffered: { pieces: sum((stream) => stream.bufferedPieces), bytes: sum((stream) => stream.bufferedBytes) },
      resumes: sum((stream) => stream.resumes),
      ...counts,
    };
  }

  /** @param {(session: Session) => StreamRecord} start */
  #view(start) {
    return this.#run((session) => {
      const view = new ChatStream(start(session), (step) => this.#run(step));
      this.#views.set(view.info, view);
      return view;
    });
  }

  /**
   * Every input goes through here: hand it to the session, then do what the session says.
   * @template T
   * @param {(session: Session, now: number) => T} step
   * @returns {T}
   */
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

  /** @param {import("./session.js").SessionEvent} event */
  #handle({ type, stream, ...detail }) {
    if (type === "open") return this.#open();
    if (type === "close") return this.#discard(detail.code);
    if (type === "tokenWanted") return this.#renew();
    if (type === "token_renewed" && this.#socket) this.#socket.token = this.#renewed;
    if (type === "connected") this.#transports.established();
    // Nothing is wrong with the server: there is no need to wait for it.
    if (type === "connectionError" && this.session.online && this.#transports.failed(detail.code)) this.session.wake(performance.now());
    const view = stream && this.#views.get(stream);
    view?.emit(type, { ...detail, stream: view });
    if (!stream || type !== "change") this.emit(type, stream ? { ...detail, stream: view } : detail);
    if (stream && type === "end") this.#views.delete(stream);
  }

  #open() {
    this.#generation += 1;
    const fail = (/** @type {any} */ error) => this.#lose({ code: 1006, reason: String(error?.message ?? error) });
    const dial = (/** @type {string|undefined} */ token, factory = this.#transports.current) => {
      try {
        const socket = factory(this.url, { token });
        if (socket instanceof Promise) this.#await(socket, (next) => dial(token, next), fail);
        else this.#adopt(socket, token);
      } catch (error) {
        fail(error);
      }
    };
    if (typeof this.#token === "function") this.#await(this.#ask(), dial, fail);
    else dial(this.#token);
  }

  async #ask() {
    try {
      return await /** @type {any} */ (this.#token)();
    } catch (error) {
      this.emit("tokenError", { error });
      throw error;
    }
  }

  /**
   * What a promise gives is for the connection that there is now, and for no other.
   * @template T
   * @param {Promise<T>} promise
   * @param {(value: T) => void} use
   * @param {(error: unknown) => void} fail
   */
  #await(promise, use, fail) {
    const generation = this.#generation;
    /** @type {<V>(act: (value: V) => void) => (value: V) => void} */
    const current = (act) => (value) => { if (generation === this.#generation) act(value); };
    promise.then(current(use), current(fail));
  }

  /** Shows a new token on the connection that there is. What carries messages over HTTP shows it, too, once it is known to be good. */
  #renew() {
    this.#await(this.#ask(), (token) => {
      this.#renewed = token;
      this.#run((session) => session.renew(token));
    }, () => this.#run((session, now) => session.renewalFailed(now)));
  }

  /**
   * @param {Transport} socket
   * @param {string|undefined} token
   */
  #adopt(socket, token) {
    this.#socket = socket;
    socket.onopen = () => this.#run((session, now) => session.opened(now, token));
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.#run((session, now) => session.receive(data, now));
      else this.#lose({ code: 1003, reason: "a binary message" }, 1000);
    };
    socket.onclose = (close) => this.#lose(close);
  }

  /**
   * @param {{code: number, reason?: string, retryAfterMs?: number|null}} why
   * @param {number} [closing] a code to close the socket with
   */
  #lose({ code, reason, retryAfterMs }, closing) {
    this.#discard(closing);
    this.#run((session, now) => session.disconnected(code, now, { reason, retryAfterMs }));
  }

  /**
   * On a dead network the browser reports a close much later; nobody waits for that here.
   * @param {number} [code]
   */
  #discard(code) {
    const socket = this.#socket;
    this.#generation += 1;
    if (!socket) return;
    this.#socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // A browser refuses to send the registered codes itself.
    if (code) socket.close(code === 1000 || code >= 3000 ? code : 1000);
  }

  #listen() {
    if (this.#listening) return;
    const { signal } = this.#listening = new AbortController();
    const wake = (/** @type {Event} */ event) => this.#run((session, now) => {
      session.online = event.type !== "offline" && globalThis.navigator?.onLine !== false;
      if (event.type === "online" && session.gaveUp) session.connect(now);
      else session.wake(now);
    });
    for (const type of WAKING) globalThis.addEventListener?.(type, wake, { signal });
    globalThis.document?.addEventListener("visibilitychange", () => { if (!document.hidden) this.probe(); }, { signal });
  }

  #arm() {
    clearTimeout(this.#timer);
    const at = this.session.timer();
    if (at < Infinity) this.#timer = setTimeout(() => this.#run(() => {}), Math.max(0, at - performance.now()));
  }
}
