/** The hook, in a real React on a document of happy-dom. The server is in the test's hands, and so are the frames. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, test } from "node:test";
import { Window } from "happy-dom";

const window = new Window({ url: "http://page/" });
// Newer versions of node have a navigator of their own, which cannot be assigned.
Object.defineProperty(globalThis, "navigator", { value: window.navigator, configurable: true });
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: true });
const { act, createElement: h, StrictMode, version } = await import("react");
const { createRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");
const { useChatStream } = await import("../react.js");

// The client's own timers must not keep the tests waiting; none of them decides anything here.
const later = globalThis.setTimeout;
globalThis.setTimeout = (...timer) => { const made = later(...timer); made.unref?.(); return made; };

let frames = [];
globalThis.requestAnimationFrame = (draw) => frames.push(draw);
globalThis.cancelAnimationFrame = (id) => { frames[id - 1] = () => {}; };
const frame = () => act(async () => { for (const draw of frames.splice(0)) draw(performance.now()); });
const turn = () => act(async () => { await new Promise((resolve) => { setImmediate(resolve); }); });
const expired = () => act(async () => { await new Promise((resolve) => { later(resolve, 0); }); });

class Socket {
  static all = [];
  sent = []; closed = false;
  constructor(url) { this.url = url; Socket.all.push(this); }
  send(text) { this.sent.push(JSON.parse(text)); }
  close() { this.closed = true; }
  said(type) { return this.sent.filter((message) => message.type === type); }
}
globalThis.WebSocket = Socket;
const socket = () => Socket.all.at(-1);
const says = (...messages) => act(async () => { for (const message of messages) socket().onmessage({ data: JSON.stringify(message) }); });
const greet = async (extra = {}) => {
  await act(async () => socket().onopen());
  await says({ type: "connection_established", connection_id: "c", session_id: "s1", heartbeat_interval: 10, heartbeat_timeout: 25, window: 8, active_streams: [], ...extra });
};
const start = (extra = {}) => says({ type: "stream_start", request_id: socket().said("chat_request").at(-1)?.request_id ?? "r", stream_id: "st1", epoch: "e", window: 8, ...extra });
const chunk = (chunk_id, content) => ({ type: "content_chunk", stream_id: "st1", chunk_id, content });
const complete = (final_chunk_id, extra = {}) => ({ type: "stream_complete", stream_id: "st1", final_chunk_id, finish_reason: "stop", ...extra });

let root, seen, renders;
function Chat(props) {
  seen = useChatStream({ url: "ws://page/ws", restore: false, ...props });
  renders += 1;
  return h("ul", null, seen.messages.map(({ id, role, content }) => h("li", { key: id }, `${role}: ${content}`)));
}
const mount = (props, strict = false) => act(async () => root.render(strict ? h(StrictMode, null, h(Chat, props)) : h(Chat, props)));
const shown = () => [...document.querySelectorAll("li")].map((item) => item.textContent);

describe("useChatStream", () => {
  beforeEach(() => {
    Socket.all = [];
    frames = [];
    renders = 0;
    root = createRoot(document.body.appendChild(document.createElement("div")));
  });
  afterEach(async () => {
    await act(async () => root.unmount());
    await expired();
    document.body.innerHTML = "";
  });

  test("It is the React that is meant.", () => { assert.ok(version.startsWith(process.env.REACT ?? "19.")); });

  test("It gives what the readme names.", async () => {
    const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
    const [, names] = /const \{ (.+) \} = useChatStream\(/.exec(readme);
    await mount();
    for (const name of names.split(", ")) assert.notEqual(seen[name], undefined, name);
  });

  test("Mounting connects, and the state follows the connection.", async () => {
    await mount();
    assert.equal(seen.state, "connecting");
    await greet();
    assert.deepEqual([seen.state, seen.sessionId, seen.retryCount, seen.error], ["connected", "s1", 0, null]);
  });

  test("A question and its answer are messages; the answer grows frame by frame.", async () => {
    await mount();
    await greet();
    await act(async () => { seen.send("hi", { model: "demo" }); });
    assert.deepEqual(shown(), ["user: hi", "assistant: "]);
    assert.equal(seen.isStreaming, true);
    assert.deepEqual(socket().said("chat_request")[0].config, { model: "demo" });
    await start();
    const before = renders;
    await says(chunk(1, "Hel"), chunk(2, "lo"), chunk(3, "!"));
    assert.deepEqual(shown(), ["user: hi", "assistant: "]);
    await frame();
    assert.deepEqual(shown(), ["user: hi", "assistant: Hello!"]);
    assert.ok(renders - before <= 2, `${renders - before} renders of three chunks`);
    await says(complete(3));
    assert.deepEqual([seen.isStreaming, seen.messages[1].isComplete, seen.messages[1].outcome.finish_reason], [false, true, "stop"]);
  });

  test("The calls of tools grow in the message, and are whole at its end; results of tools are no messages of it.", async () => {
    await mount({ restore: true });
    await greet();
    await says({
      type: "history", session_id: "s1", messages: [
        { id: "m1", role: "user", content: "weather?" },
        { id: "m2", role: "assistant", content: "", is_complete: true, stream_id: "st0", tool_calls: [{ id: "c0", name: "look_up", arguments: "{}" }] },
        { id: "m3", role: "tool", content: "sunny", tool_call_id: "c0" },
      ],
    });
    await turn();
    assert.deepEqual(seen.messages.map(({ role, toolCalls }) => [role, toolCalls?.map(({ id }) => id)]), [["user", []], ["assistant", ["c0"]]]);
    await act(async () => { seen.send("hi"); });
    await start();
    const call = (chunk_id, ...lines) => ({ ...chunk(chunk_id, lines.map((line) => `${JSON.stringify(line)}\n`).join("")), kind: "tool_call" });
    await says(call(1, { index: 0, id: "c1", name: "listen" }, { index: 0, arguments: '{"ci' }), call(2, { index: 1, id: "c2", name: "look_up" }));
    await frame();
    const { toolCalls, content } = seen.messages.at(-1);
    assert.deepEqual([toolCalls, content], [[{ index: 0, id: "c1", name: "listen", arguments: '{"ci' }, { index: 1, id: "c2", name: "look_up" }], ""]);
    await says(call(3, { index: 0, arguments: 'ty":"Ulm"}' }), complete(3, { finish_reason: "tool_calls" }));
    assert.deepEqual(JSON.parse(seen.messages.at(-1).toolCalls[0].arguments), { city: "Ulm" });
    assert.equal(seen.messages.at(-1).outcome.finish_reason, "tool_calls");
  });

  test("What was drawn is acknowledged, and nothing before.", async () => {
    await mount();
    await greet();
    await act(async () => { seen.send("hi"); });
    await start();
    await says(...[1, 2, 3, 4, 5].map((id) => chunk(id, "x")));
    assert.deepEqual(socket().said("chunk_ack"), []);
    await frame();
    assert.deepEqual(socket().said("chunk_ack").map(({ chunk_id }) => chunk_id), [5]);
  });

  test("In strict mode there is one connection, and one answer to one question.", async () => {
    await mount({}, true);
    await expired();
    assert.equal(Socket.all.filter(({ closed }) => !closed).length, 1);
    await greet();
    await act(async () => { seen.send("hi"); });
    assert.equal(socket().said("chat_request").length, 1);
    await start();
    await says(chunk(1, "yes"));
    await frame();
    assert.deepEqual(shown(), ["user: hi", "assistant: yes"]);
  });

  test("Unmounting closes the connection, and nothing is left that draws.", async () => {
    await mount();
    await greet();
    await act(async () => { seen.send("hi"); });
    await start();
    await says(chunk(1, "x"));
    await act(async () => root.render(null));
    await expired();
    assert.equal(socket().closed, true);
    await frame();
    assert.deepEqual(socket().said("chunk_ack"), []);
    assert.deepEqual(socket().said("cancel_stream"), []);
  });

  test("A lost connection shows its tries, and is resumed without a word to the reader.", async () => {
    await mount({ maxTries: 1 });
    await greet();
    await act(async () => { seen.send("hi"); });
    await start();
    await says(chunk(1, "a"));
    await frame();
    await act(async () => socket().onclose({ code: 1006 }));
    assert.deepEqual([seen.state, seen.retryCount, seen.isStreaming], ["waiting", 1, true]);
    await act(async () => seen.resume());
    await greet();
    assert.deepEqual(socket().said("resume_stream").map(({ last_chunk_id }) => last_chunk_id), [1]);
    await says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 1, tail_chunk_id: 2, epoch: "e", state: "running", window: 8 }, chunk(2, "b"), complete(2));
    assert.deepEqual(shown(), ["user: hi", "assistant: ab"]);
    assert.equal(seen.retryCount, 0);
  });

  test("Without tries left it says so; resume begins anew.", async () => {
    await mount({ maxTries: 0 });
    await act(async () => socket().onclose({ code: 1006 }));
    assert.deepEqual([seen.state, seen.error], ["stopped", "The server cannot be reached."]);
    await act(async () => seen.resume());
    await greet();
    assert.deepEqual([seen.state, seen.error], ["connected", null]);
  });

  test("A cancel is sent, and what there was stays.", async () => {
    await mount();
    await greet();
    await act(async () => { seen.send("hi"); });
    await start();
    await says(chunk(1, "half"));
    await act(async () => seen.cancel());
    assert.equal(socket().said("cancel_stream").length, 1);
    await says(complete(1, { finish_reason: "cancelled" }));
    assert.deepEqual(shown(), ["user: hi", "assistant: half"]);
    assert.deepEqual([seen.isStreaming, seen.messages[1].isComplete, seen.error], [false, false, null]);
  });

  test("A failed answer has its error, and the next question takes it away.", async () => {
    await mount();
    await greet();
    await act(async () => { seen.send("hi"); });
    await start();
    await says({ type: "stream_error", stream_id: "st1", error_type: "provider_error", message: "It failed.", recoverable: true, last_chunk_id: 0 });
    assert.deepEqual([seen.error, seen.messages[1].error], ["It failed.", "It failed."]);
    await act(async () => { seen.send("again"); });
    assert.equal(seen.error, null);
  });

  test("A remembered session is restored, with the answer that still runs.", async () => {
    await mount({ sessionId: "s1", restore: true });
    await greet({ active_streams: [{ stream_id: "st1", last_chunk_id: 2, state: "running" }] });
    assert.equal(socket().said("hello")[0].session_id, "s1");
    const said = { created: 0, is_complete: true };
    await says({ type: "history", session_id: "s1", messages: [{ id: "1", role: "user", content: "hi", ...said }, { id: "2", role: "assistant", content: "so ", ...said, is_complete: false, stream_id: "st1", last_chunk_id: 2 }] });
    await turn();
    await says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 2, tail_chunk_id: 2, epoch: "e", state: "running", window: 8 }, chunk(3, "far"));
    await frame();
    assert.deepEqual(shown(), ["user: hi", "assistant: so far"]);
  });

  test("What another tab asks, and its answer, appear here.", async () => {
    await mount();
    await greet();
    await says({ type: "session_changed", session_id: "s1", stream_id: "st1" });
    const said = { created: 0, is_complete: true };
    await says({ type: "history", session_id: "s1", messages: [{ id: "1", role: "user", content: "from there", ...said }, { id: "2", role: "assistant", content: "", ...said, is_complete: false, stream_id: "st1", last_chunk_id: 0 }] });
    await turn();
    await says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 0, tail_chunk_id: 0, epoch: "e", state: "running", window: 8 }, chunk(1, "here"));
    await frame();
    assert.deepEqual(shown(), ["user: from there", "assistant: here"]);
  });

  test("On a server it renders an empty conversation and connects to nothing.", () => {
    assert.equal(renderToString(h(Chat)), "<ul></ul>");
    assert.equal(Socket.all.length, 0);
  });

  test("The figures are those of the client.", async () => {
    await mount();
    await greet();
    assert.deepEqual([seen.stats().state, seen.stats().transport, seen.stats().connections], ["connected", "websocket", 1]);
  });
});
