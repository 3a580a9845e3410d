/** wsstream in React (18 or newer): one hook on the core. */
import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import { StreamClient } from "./client.js";
import { onFrames } from "./frames.js";
import { toolCalls } from "./tools.js";

/** @typedef {import("./stream.js").ChatStream} ChatStream */
/** @typedef {import("./client.js").ClientOptions} ClientOptions */
/** @typedef {{id: string, role: string, content: string, reasoning: string, toolCalls?: {id: string, name: string, arguments?: string}[], isComplete: boolean, streamId?: string, outcome?: import("./record.js").Outcome, error?: string}} ChatMessage */

/**
 * @typedef {object} ChatState what the hook shows
 * @property {ChatMessage[]} messages
 * @property {import("./session.js").State} state of the connection
 * @property {boolean} isStreaming
 * @property {number} retryCount tries since the connection was lost
 * @property {string|null} error for people's eyes
 * @property {string|undefined} sessionId
 */

const IDLE = Object.freeze({ messages: Object.freeze([]), state: "idle", isStreaming: false, retryCount: 0, error: null, sessionId: undefined });

/** Messages among which one is looked for that has just begun. */
const NEWEST = 20;

/** Told errors a reader can act on; the others are the program's. @param {any} answer */
const words = (answer) => answer?.message ?? "Something went wrong.";

/** A conversation as a store: React reads snapshots of it, at the pace of the screen. */
export class ChatStore {
  /** @type {Set<() => void>} */ #listeners = new Set();
  /** @type {Map<ChatStream, () => void>} the answers that run, and how to stop drawing them */ #running = new Map();
  /** @type {ChatState} */ #state;
  #restored = false; #ids = 0; #users = 0;
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #leaving;

  /**
   * @param {string} url
   * @param {ClientOptions & {restore?: boolean}} [options]
   */
  constructor(url, { restore = true, ...options } = {}) {
    this.client = new StreamClient(url, options);
    this.#restored = !restore;
    this.#state = { .../** @type {any} */ (IDLE), sessionId: options.sessionId };
    this.client.on("stateChange", ({ state }) => this.#set({ state }));
    this.client.on("connected", ({ sessionId }) => this.#set({ sessionId, retryCount: 0, error: null }));
    this.client.on("recoveryAttempt", ({ attempt }) => this.#set({ retryCount: attempt }));
    this.client.on("maxRetriesExceeded", () => this.#set({ error: "The server cannot be reached." }));
    this.client.on("error", ({ message }) => this.#set({ error: words(message) }));
    this.client.on("session", ({ active }) => this.#arrive(active));
    this.client.on("session_changed", ({ message }) => this.#changed(message));
  }

  /** What React reads. */
  getSnapshot = () => this.#state;

  /** @param {() => void} listener */
  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => { this.#listeners.delete(listener); };
  };

  /** For as long as somebody has opened it, there is a connection. Leaving and coming back at once keeps it. */
  open = () => {
    this.#users += 1;
    clearTimeout(this.#leaving);
    if (this.#users === 1 && this.client.state !== "connected") this.client.connect();
    return () => {
      this.#users -= 1;
      if (this.#users === 0) this.#leaving = setTimeout(() => this.#close(), 0);
    };
  };

  /**
   * @param {string|object[]} prompt
   * @param {object} [config]
   */
  send = (prompt, config) => {
    const text = typeof prompt === "string" ? prompt : String(/** @type {any} */ (prompt.at(-1))?.content ?? "");
    this.#set({ error: null, messages: [...this.#state.messages, this.#message("user", text, true)] });
    const stream = this.client.chat(prompt, config);
    this.#show(stream);
    return stream;
  };

  /** Stops all answers that run. */
  cancel = () => { for (const stream of this.#running.keys()) stream.cancel(); };

  /** Connects anew after the tries were used up, and goes on where the reader was. */
  resume = () => { this.client.connect(); };

  stats = () => this.client.stats();

  /**
   * @param {string} role
   * @param {string} content
   * @param {boolean} isComplete
   * @returns {ChatMessage}
   */
  #message(role, content, isComplete) {
    this.#ids += 1;
    return { id: `m${this.#ids}`, role, content, reasoning: "", isComplete };
  }

  /** @param {{stream_id: string}[]} active */
  async #arrive(active) {
    if (this.#restored) {
      for (const { stream_id } of active) this.#follow(stream_id);
      return;
    }
    this.#restored = true;
    try { this.#restore(await this.client.history()); } catch { /* A new session has none; what is wrong otherwise, the connection tells. */ }
  }

  /** @param {import("./messages.js").Message} message another tab has deleted the conversation, or asked something in it */
  async #changed({ deleted, stream_id: streamId }) {
    if (deleted) this.#set({ messages: [] });
    if (!streamId || this.#knows(streamId)) return;
    const { messages } = await this.client.history(undefined, { limit: NEWEST });
    const at = messages.findIndex((/** @type {any} */ message) => message.stream_id === streamId);
    if (at < 0 || this.#knows(streamId)) return;
    const asked = messages[at - 1];
    if (asked?.role === "user") this.#set({ messages: [...this.#state.messages, this.#message("user", plain(asked.content), true)] });
    if (messages[at].last_chunk_id !== undefined) this.#follow(streamId, messages[at]);
    else this.#set({ messages: [...this.#state.messages, this.#said(messages[at])] });
  }

  /** @param {string} streamId */
  #knows(streamId) {
    return this.#state.messages.some((message) => message.streamId === streamId)
      || [...this.#running.keys()].some((stream) => stream.id === streamId);
  }

  /** @param {import("./messages.js").Message} history */
  #restore({ messages }) {
    const own = this.#state.messages;
    const running = messages.filter((/** @type {any} */ message) => message.last_chunk_id !== undefined);
    // What tools gave is no turn of anybody's.
    const said = messages.filter((/** @type {any} */ message) => !running.includes(message) && message.role !== "tool" && !own.length);
    this.#set({ messages: [...said.map((/** @type {any} */ message) => this.#said(message)), ...own] });
    for (const message of running) this.#follow(message.stream_id, message);
  }

  /**
   * @param {any} message of a history
   * @returns {ChatMessage}
   */
  #said(message) {
    const { text, reasoning, toolCalls } = known(message);
    return { ...this.#message(message.role, text, message.is_complete), reasoning, toolCalls, streamId: message.stream_id };
  }

  /**
   * @param {string} streamId
   * @param {any} [message] of a history
   */
  #follow(streamId, message) {
    if (this.#knows(streamId)) return;
    // Calls come in pieces that only their whole log joins: then it is read from its start.
    this.#show(this.client.follow(streamId, message && !message.tool_calls ? known(message) : undefined));
  }

  /** @param {ChatStream} stream */
  #show(stream) {
    const message = this.#message("assistant", "", false);
    this.#running.set(stream, () => {});
    this.#set({ isStreaming: true, messages: [...this.#state.messages, message] });
    this.#running.set(stream, onFrames(stream, () => this.#draw(stream, message.id)));
    stream.on("end", () => this.#end(stream, message.id));
    if (stream.outcome) this.#end(stream, message.id);
  }

  /**
   * @param {ChatStream} stream
   * @param {string} id
   */
  #draw(stream, id) {
    this.#change(id, { content: stream.text, reasoning: stream.reasoning, toolCalls: toolCalls(stream), streamId: stream.id });
  }

  /**
   * @param {ChatStream} stream
   * @param {string} id
   */
  #end(stream, id) {
    const outcome = /** @type {import("./record.js").Outcome} */ (stream.outcome);
    this.#running.get(stream)?.();
    this.#running.delete(stream);
    this.#draw(stream, id);
    stream.rendered();
    this.#change(id, { isComplete: outcome.ok && outcome.finish_reason !== "cancelled", outcome, error: outcome.ok ? undefined : words(outcome) });
    this.#set({ isStreaming: this.#running.size > 0, error: outcome.ok ? this.#state.error : words(outcome) });
  }

  #close() {
    for (const stop of this.#running.values()) stop();
    this.#running.clear();
    this.client.close();
    this.#set({ isStreaming: false });
  }

  /**
   * @param {string} id
   * @param {Partial<ChatMessage>} fields
   */
  #change(id, fields) {
    this.#set({ messages: this.#state.messages.map((message) => (message.id === id ? { ...message, ...fields } : message)) });
  }

  /** @param {Partial<ChatState>} fields */
  #set(fields) {
    this.#state = { ...this.#state, ...fields };
    for (const listener of this.#listeners) listener();
  }
}

/** What a history's message says. @param {any} message */
function known({ content, reasoning = "", tool_calls: toolCalls = [], last_chunk_id: lastChunkId }) {
  return { text: plain(content), reasoning, toolCalls, lastChunkId };
}

/** @param {unknown} content a text, or parts of one */
function plain(content) {
  return typeof content === "string" ? content : /** @type {any[]} */ (content ?? []).map((part) => part.text ?? "").join("");
}

/**
 * A conversation. It connects when the component is mounted and closes the connection when it is gone; answers go on at
 * the server, and are found again by `sessionId`.
 * @param {{url: string} & ClientOptions & {restore?: boolean}} options a change of `url` or `sessionId` begins another conversation; the rest is read once
 */
export function useChatStream({ url, sessionId, ...rest }) {
  const first = useRef(rest);
  const store = useMemo(() => new ChatStore(url, { sessionId, ...first.current }), [url, sessionId]);
  useEffect(() => store.open(), [store]);
  const state = useSyncExternalStore(store.subscribe, store.getSnapshot, serverSnapshot);
  const { send, cancel, resume, stats, client } = store;
  return { ...state, send, cancel, resume, stats, client };
}

/** @returns {ChatState} */
const serverSnapshot = () => /** @type {any} */ (IDLE);
