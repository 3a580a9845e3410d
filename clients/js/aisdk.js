/**
 * wsstream for the AI SDK: a `ChatTransport` for `useChat` that speaks the native wire. It comes back by itself after a
 * cut and goes on where it was, acknowledges what the chat has taken, and stops answers at the server.
 *
 *     const transport = new WsstreamChatTransport("wss://example.org/ws");
 *     const chat = useChat({ id, transport, resume: true });
 *
 * It needs nothing of the package `ai`; `UiChunk` and the others have the shapes of its version 7.
 */
import { StreamClient } from "./index.js";

/** @typedef {{type: string, [field: string]: any}} UiChunk a UIMessageChunk */
/** @typedef {{type: string, [field: string]: any}} UiPart */
/** @typedef {{id: string, role: "system"|"user"|"assistant", parts: UiPart[], metadata?: any}} UiMessage */
/** @typedef {import("./stream.js").ChatStream} ChatStream */
/** @typedef {Record<string, string>|Headers} HeaderFields */
/** @typedef {{chatId: string, abortSignal?: AbortSignal, headers?: HeaderFields, body?: object, metadata?: unknown}} ReconnectOptions */
/** @typedef {ReconnectOptions & {trigger: "submit-message"|"regenerate-message", messageId: string|undefined, messages: UiMessage[]}} SendOptions */

/**
 * @typedef {object} TransportOptions besides those of the client (`token`, `window`, `transports` …)
 * @property {StreamClient} [client] one to share with other parts of the page; it is not closed with the transport
 * @property {object} [body] `model` and `config`, which choose as those of a `chat_request` do; a message's own `body` goes before
 * @property {"client"|"server"} [history] who says what was said before: the chat with every message, or the server from
 *   its own history (then only new messages travel, where a message is new and of text alone)
 */

/** A resume that is aborted so soon and asked for again was React mounting a page twice, not somebody pressing stop. */
const SECOND_THOUGHT_MS = 1000;
/** Messages among which the answer that still runs is looked for. */
const NEWEST = 100;
const FINISH_REASONS = /** @type {Record<string, string>} */ ({ content_filter: "content-filter", tool_calls: "tool-calls" });

export class WsstreamChatTransport {
  /** A resumed answer begins anew, under the same message id. */
  resumeStreamIsReplay = true;
  #client; #own; #body; #history;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} chats that are stopped in a moment, unless they are resumed */
  #stops = new Map();

  /**
   * @param {string|URL} url of the WebSocket, `wss://…/ws`
   * @param {TransportOptions & import("./client.js").ClientOptions} [options]
   */
  constructor(url, { client, body = {}, history = "client", ...options } = {}) {
    this.#own = !client;
    this.#client = client ?? new StreamClient(url, options);
    this.#body = body;
    this.#history = history;
  }

  /** The connection, for those who want to show its state. */
  get client() { return this.#client; }

  /**
   * @param {SendOptions} options
   * @returns {Promise<ReadableStream<UiChunk>>}
   */
  async sendMessages({ chatId, messages, trigger, messageId, abortSignal, body }) {
    abortSignal?.throwIfAborted();
    this.#connect();
    const { model, config } = /** @type {any} */ ({ ...this.#body, ...body });
    const last = messages.at(-1);
    const isNew = trigger === "submit-message" && !messageId && last?.role === "user";
    const text = isNew && this.#history === "server" ? plainText(last) : null;
    const stream = this.#client.chat(text ?? toChatMessages(messages), { ...config, ...(model && { model }) }, { sessionId: chatId });
    return read(this.#client, stream, {
      messageId: last?.role === "assistant" ? last.id : undefined,
      abortSignal,
      onAbort: () => stream.cancel(),
    });
  }

  /**
   * @param {ReconnectOptions} options
   * @returns {Promise<ReadableStream<UiChunk>|null>} null where nothing runs
   */
  async reconnectToStream({ chatId, abortSignal }) {
    abortSignal?.throwIfAborted();
    clearTimeout(this.#stops.get(chatId));
    this.#stops.delete(chatId);
    this.#connect();
    const { messages } = await this.#client.history(chatId, { limit: NEWEST });
    abortSignal?.throwIfAborted();
    const running = messages.findLast((/** @type {any} */ message) => message.stream_id && message.last_chunk_id !== undefined);
    if (!running) return null;
    const stream = this.#client.follow(running.stream_id, { snapshot: true });
    const began = performance.now();
    return read(this.#client, stream, { abortSignal, onAbort: () => this.#stop(chatId, stream, began) });
  }

  /** Ends the connection, unless it is shared; answers go on at the server. */
  close() {
    if (this.#own) this.#client.close();
  }

  #connect() {
    if (["idle", "stopped"].includes(this.#client.state)) this.#client.connect();
  }

  /**
   * @param {string} chatId
   * @param {ChatStream} stream
   * @param {number} began
   */
  #stop(chatId, stream, began) {
    const left = began + SECOND_THOUGHT_MS - performance.now();
    if (left <= 0) return stream.cancel();
    const { id } = stream;
    stream.leave();
    this.#stops.set(chatId, setTimeout(() => {
      this.#stops.delete(chatId);
      if (id) this.#client.follow(id).cancel();
    }, left));
  }
}

/**
 * An answer as the stream that a chat reads. What the chat has taken is acknowledged when it asks for more.
 * @param {StreamClient} client
 * @param {ChatStream} stream
 * @param {{messageId?: string, abortSignal?: AbortSignal, onAbort: () => void}} options
 * @returns {ReadableStream<UiChunk>}
 */
function read(client, stream, { messageId, abortSignal, onAbort }) {
  const parts = new UiParts();
  /** @type {{first: number, last: number, chunks: () => UiChunk[]}[]} received and not yet taken */
  let waiting = [];
  /** @type {UiChunk[]} */
  let ready = [];
  let taken = 0;
  /** Whether the end is among what is ready, and whether the chat is told nothing any more. */
  let begun = false, ended = false, closed = false;
  let wake = () => {};
  /** @type {(() => void)[]} */
  const stops = [];
  const leave = () => { for (const stop of stops.splice(0)) stop(); wake(); };

  stops.push(stream.on("contentChunk", ({ chunkId, firstChunkId, kind, content }) => {
    waiting = waiting.filter(({ first }) => first < firstChunkId); // after a cut what nobody has taken comes again
    waiting.push({ first: firstChunkId, last: chunkId, chunks: () => parts.take(kind, content) });
    wake();
  }), stream.on("rewind", () => {
    const { reasoning, text, lastChunkId } = stream;
    waiting = [{ first: 0, last: lastChunkId, chunks: () => parts.reset(reasoning, text) }];
    wake();
  }), stream.on("start", () => wake()), stream.on("resumed", () => wake()), stream.on("end", () => wake()));

  const advance = async () => {
    if (!begun && stream.id) {
      begun = true;
      ready = parts.begin(messageId ?? `m_${stream.id.replace(/^s_/, "")}`, stream.id, stream.info.model);
    } else if (waiting.length) {
      const next = /** @type {any} */ (waiting.shift());
      taken = next.last;
      ready = next.chunks();
      if (!ready.length) stream.rendered(taken);
    } else if (stream.outcome) {
      ready = parts.end(stream.outcome);
      ended = true;
      leave();
    } else {
      await new Promise((resolve) => { wake = () => resolve(undefined); });
    }
  };

  return new ReadableStream({
    start(controller) {
      stops.push(client.on("maxRetriesExceeded", () => {
        if (closed) return;
        ended = closed = true;
        stream.leave();
        leave();
        // The name and the words by which a chat knows that it can resume.
        controller.error(new TypeError("The network connection was lost."));
      }));
      const abort = () => {
        if (closed) return;
        ended = closed = true;
        leave();
        onAbort();
        controller.close();
      };
      abortSignal?.addEventListener("abort", abort, { once: true });
      stops.push(() => abortSignal?.removeEventListener("abort", abort));
    },
    async pull(controller) {
      if (!ready.length && taken) stream.rendered(taken);
      while (!ready.length && !ended) await advance();
      if (closed) return;
      controller.enqueue(/** @type {UiChunk} */ (ready.shift()));
      if (ended && !ready.length) {
        closed = true;
        controller.close();
      }
    },
    cancel() {
      ended = closed = true;
      leave();
      if (!stream.outcome) stream.leave();
    },
  }, { highWaterMark: 0 });
}

/** Translates what a log holds into UI message chunks; the server's own translation is `wsstream/wires/uistream.py`. */
export class UiParts {
  /** @type {{name: string, id: string}|null} */ #part = null;
  #parts = 0;
  /** @type {Map<number, {toolCallId: string, toolName: string, text: string}>} */ #calls = new Map();
  #line = "";

  /**
   * @param {string} messageId
   * @param {string} streamId
   * @param {string} [model]
   * @returns {UiChunk[]}
   */
  begin(messageId, streamId, model) {
    return [{ type: "start", messageId, messageMetadata: { streamId, ...(model && { model }) } }, { type: "start-step" }];
  }

  /**
   * @param {string} kind
   * @param {string} content
   * @returns {UiChunk[]}
   */
  take(kind, content) {
    if (kind === "text" || kind === "reasoning") return this.#text(kind, content);
    if (kind === "tool_call") return this.#tool(content);
    return kind === "data" ? [{ type: "data-chunk", data: content }] : [];
  }

  /**
   * What was withdrawn leaves the step, and what still stands is told again.
   * @param {string} reasoning
   * @param {string} text
   * @returns {UiChunk[]}
   */
  reset(reasoning, text) {
    this.#part = null;
    this.#calls.clear();
    this.#line = "";
    return [{ type: "reset-step" }, ...(reasoning ? this.#text("reasoning", reasoning) : []), ...(text ? this.#text("text", text) : [])];
  }

  /**
   * @param {import("./record.js").Outcome} outcome
   * @returns {UiChunk[]}
   */
  end(outcome) {
    const chunks = [...(this.#line ? this.#tool("\n") : []), ...this.#closePart()];
    if (!outcome.ok) return [...chunks, { type: "error", errorText: outcome.message ?? "The answer failed." }];
    if (outcome.finish_reason === "cancelled") return [...chunks, { type: "abort", reason: "cancelled" }];
    for (const call of this.#calls.values()) chunks.push(whole(call));
    const reason = outcome.finish_reason ?? "stop";
    const { usage } = outcome;
    const figures = {
      elapsedSeconds: outcome.elapsed_seconds,
      tokensPerSecond: outcome.tokens_per_second,
      ...(usage && { usage: { inputTokens: usage.input_tokens, outputTokens: usage.output_tokens, totalTokens: usage.input_tokens + usage.output_tokens } }),
    };
    return [...chunks, { type: "finish-step" }, { type: "finish", finishReason: FINISH_REASONS[reason] ?? reason, messageMetadata: figures }];
  }

  /**
   * @param {string} name
   * @param {string} delta
   */
  #text(name, delta) {
    /** @type {UiChunk[]} */
    const chunks = [];
    if (this.#part?.name !== name) {
      chunks.push(...this.#closePart());
      this.#part = { name, id: String(this.#parts += 1) };
      chunks.push({ type: `${name}-start`, id: this.#part.id });
    }
    chunks.push({ type: `${name}-delta`, id: /** @type {any} */ (this.#part).id, delta });
    return chunks;
  }

  /** @returns {UiChunk[]} */
  #closePart() {
    const part = this.#part;
    this.#part = null;
    return part ? [{ type: `${part.name}-end`, id: part.id }] : [];
  }

  /** @param {string} text */
  #tool(text) {
    const lines = (this.#line + text).split("\n");
    this.#line = /** @type {string} */ (lines.pop());
    return lines.flatMap((line) => this.#toolLine(line));
  }

  /**
   * @param {string} text
   * @returns {UiChunk[]}
   */
  #toolLine(text) {
    let line;
    try { line = JSON.parse(text); } catch { return []; } // a provider that is not ours may put what it likes
    if (typeof line !== "object" || line === null || !Number.isInteger(line.index)) return [];
    const chunks = this.#closePart();
    if (typeof line.name === "string") {
      const call = { toolCallId: line.id ?? `call_${line.index}`, toolName: line.name, text: "" };
      this.#calls.set(line.index, call);
      chunks.push({ type: "tool-input-start", toolCallId: call.toolCallId, toolName: call.toolName });
    }
    const call = this.#calls.get(line.index);
    if (call && typeof line.arguments === "string" && line.arguments) {
      call.text += line.arguments;
      chunks.push({ type: "tool-input-delta", toolCallId: call.toolCallId, inputTextDelta: line.arguments });
    }
    return chunks;
  }
}

/**
 * @param {{toolCallId: string, toolName: string, text: string}} call
 * @returns {UiChunk}
 */
function whole({ toolCallId, toolName, text }) {
  try {
    return { type: "tool-input-available", toolCallId, toolName, input: text.trim() ? JSON.parse(text) : {} };
  } catch {
    return { type: "tool-input-error", toolCallId, toolName, input: text, errorText: "The arguments of this call are no JSON" };
  }
}

/** @param {UiMessage} message its text; null where there is more to it than text */
function plainText({ parts }) {
  return parts.every(({ type }) => type === "text") ? parts.map(({ text }) => text).join("") : null;
}

const RESULTS = /** @type {Record<string, (part: UiPart) => any>} */ ({
  "output-available": ({ output }) => output,
  "output-error": ({ errorText }) => errorText,
  "output-denied": () => "denied",
});

/**
 * UI messages as a provider takes them; reasoning, data and sources are not for it.
 * @param {UiMessage[]} messages
 * @returns {object[]}
 */
export function toChatMessages(messages) { return messages.flatMap(ofMessage); }

/**
 * @param {UiMessage} message
 * @returns {object[]}
 */
function ofMessage({ role, parts }) {
  if (role === "assistant") return steps(parts).flatMap(ofStep);
  const content = parts.filter(({ type }) => type === "text" || type === "file").map(toContent);
  return [{ role, content: content.every(({ type }) => type === "text") ? content.map(({ text }) => text).join("") : content }];
}

/**
 * @param {UiPart} part
 * @returns {any}
 */
function toContent({ type, text, url, mediaType = "", filename = "file" }) {
  if (type === "text") return { type, text };
  return mediaType.startsWith("image/") ? { type: "image_url", image_url: { url } } : { type: "file", file: { filename, file_data: url } };
}

/** @param {UiPart[]} parts */
function steps(parts) {
  /** @type {UiPart[][]} */
  const found = [[]];
  for (const part of parts) {
    if (part.type === "step-start") found.push([]);
    else /** @type {UiPart[]} */ (found.at(-1)).push(part);
  }
  return found;
}

/** @param {UiPart[]} parts */
function ofStep(parts) {
  const text = parts.filter(({ type }) => type === "text").map((part) => part.text).join("");
  // A call without a result would be refused by every provider; that the user went on without it says enough.
  const calls = parts.filter(({ type, state }) => (type === "dynamic-tool" || type.startsWith("tool-")) && state in RESULTS);
  if (!text && !calls.length) return [];
  const tool_calls = calls.map((part) => ({
    id: part.toolCallId,
    type: "function",
    function: { name: part.toolName ?? part.type.replace(/^tool-/, ""), arguments: JSON.stringify(part.input ?? part.rawInput ?? {}) },
  }));
  const results = calls.map((part) => {
    const result = RESULTS[part.state](part);
    return { role: "tool", content: typeof result === "string" ? result : JSON.stringify(result), tool_call_id: part.toolCallId };
  });
  return [{ role: "assistant", content: text || null, ...(calls.length && { tool_calls }) }, ...results];
}
