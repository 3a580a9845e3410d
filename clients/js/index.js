/**
 * wsstream for browsers, without dependencies.
 *
 *   StreamClient  owns the connection and the one timer: `connect`, `chat`, `follow`, `list`, `history`, `stats`.
 *   ChatStream    one answer: iterate it, or draw it with `onFrames`.
 *   Session       the protocol: text in, text and events out; no I/O.
 *   toolCalls     what an answer calls.
 *   http          the transport for networks that let no WebSocket through, loaded there; `sseWith` in sse_transport.js makes
 *                 one with settings.
 *
 *     const client = new StreamClient("wss://example.org/ws");
 *     client.connect();
 *     for await (const text of client.chat("Why is the sky blue?")) output.append(text);
 */
export { isFinal, reconnectDelay } from "./backoff.js";
export { StreamClient } from "./client.js";
export { onFrames } from "./frames.js";
export { StreamRecord } from "./record.js";
export { Session } from "./session.js";
export { ChatStream } from "./stream.js";
export { toolCalls } from "./tools.js";
export { http, SUBPROTOCOL, webSocket } from "./transport.js";
