import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, describe, test } from "node:test";
import { pathToFileURL } from "node:url";

// The page's timers must not keep the tests waiting: a page is closed, it does not end.
const later = globalThis.setTimeout;
globalThis.setTimeout = (...timer) => later(...timer).unref();

/** Just as much of a browser as the page asks for. */
class Node {
  constructor(tag = "") { Object.assign(this, { tag, className: "", hidden: false, dataset: {}, children: [], listeners: {}, value: "", data: "" }); }
  append(...nodes) { for (const node of nodes) { node.parent = this; this.children.push(node); } }
  remove() { this.parent.children.splice(this.parent.children.indexOf(this), 1); }
  get firstChild() { return this.children[0]; }
  get length() { return this.data.length; }
  appendData(text) { this.data += text; }
  get textContent() { return this.data + this.children.map((child) => child.textContent).join(""); }
  set textContent(text) { this.children = []; this.data = text; }
  querySelector(selector) { return this.querySelectorAll(selector)[0]; }
  querySelectorAll(selector) {
    const wanted = selector.split(".").at(-1);
    return this.children.flatMap((child) => [...(child.className.split(" ").includes(wanted) ? [child] : []), ...child.querySelectorAll(selector)]);
  }
  addEventListener(type, listener) { this.listeners[type] = listener; }
  setAttribute() {}
}

class Socket {
  static last;
  sent = [];
  constructor() { Socket.last = this; }
  send(text) { this.sent.push(JSON.parse(text)); }
  close() {}
  says(message) { this.onmessage({ data: JSON.stringify(message) }); }
}

const source = readFileSync(new URL("../../chat/chat.js", import.meta.url), "utf8")
  .replace("../js/wsstream.js", new URL("../wsstream.js", import.meta.url).href);
const folder = mkdtempSync(join(tmpdir(), "page-"));
const page = pathToFileURL(join(folder, "chat.mjs")).href;
writeFileSync(new URL(page), source);
after(() => rmSync(folder, { recursive: true }));
let loads = 0;
let byId;

/** Opens the page, as if it had been here before in the session `s1`, and has it greeted. */
async function open(stored = "s1") {
  byId = {};
  const document = new Node();
  Object.assign(document, {
    hidden: true, title: "wsstream",
    getElementById: (id) => (byId[id] ??= new Node(id)),
    createElement: (tag) => new Node(tag),
    createTextNode: (text) => Object.assign(new Node("#text"), { data: text }),
    querySelectorAll: (selector) => byId.messages.querySelectorAll(selector),
  });
  const storage = new Map(stored ? [["wsstream.session", stored]] : []);
  Object.assign(globalThis, {
    document, WebSocket: Socket, location: { href: "http://page/" }, addEventListener() {}, setInterval() {}, cancelAnimationFrame() {},
    sessionStorage: { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => storage.set(key, value) },
  });
  await import(`${page}?${loads += 1}`);
  Socket.last.onopen();
  Socket.last.says({ type: "connection_established", session_id: stored || "s2", heartbeat_interval: 10, heartbeat_timeout: 30, window: 8, active_streams: [] });
  return Socket.last;
}

const shown = () => byId.messages.children.map((message) => [message.className.split(" ")[1], message.querySelector(".body").textContent]);
const message = (role, content, extra = {}) => ({ id: content, role, content, created: 0, is_complete: true, ...extra });
const RUNNING = message("assistant", "1 2 ", { is_complete: false, stream_id: "st1", last_chunk_id: 2 });

describe("page", () => {
  let socket;
  beforeEach(async () => { socket = await open(); });

  test("After a reload the page asks for its session and for what was said in it.", () => {
    assert.deepEqual(socket.sent.map(({ type, session_id }) => [type, session_id]), [["hello", "s1"], ["get_history", undefined]]);
  });

  test("What was said is shown, and a title.", () => {
    socket.says({ type: "history", session_id: "s1", title: "Greetings", messages: [message("user", "hi"), message("assistant", "hello"), message("user", [{ type: "text", text: "parts" }])] });
    assert.deepEqual(shown(), [["user", "hi"], ["assistant", "hello"], ["user", "parts"]]);
    assert.equal(document.title, "Greetings – wsstream");
    assert.deepEqual(socket.sent.length, 2);
  });

  test("The answer that still runs is followed from where its message ends.", () => {
    socket.says({ type: "history", session_id: "s1", messages: [message("user", "hi"), RUNNING] });
    const { type, stream_id, last_chunk_id } = socket.sent.at(-1);
    assert.deepEqual([type, stream_id, last_chunk_id], ["resume_stream", "st1", 2]);
    socket.says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 2, tail_chunk_id: 3, epoch: "e", state: "running", window: 8 });
    socket.says({ type: "content_chunk", stream_id: "st1", chunk_id: 3, content: "3" });
    socket.says({ type: "stream_complete", stream_id: "st1", final_chunk_id: 3, finish_reason: "stop" });
    assert.deepEqual(shown(), [["user", "hi"], ["assistant", "1 2 3"]]);
  });

  test("An answer that was cut off says so.", () => {
    socket.says({ type: "history", session_id: "s1", messages: [message("assistant", "half", { is_complete: false, stream_id: "st1" })] });
    assert.equal(byId.messages.children[0].querySelector(".note").textContent, "not complete");
  });

  test("A second connection does not show everything twice.", () => {
    const history = { type: "history", session_id: "s1", messages: [message("user", "hi")] };
    socket.says(history);
    socket.says(history);
    assert.equal(shown().length, 1);
  });

  test("What is typed continues the conversation.", () => {
    socket.says({ type: "history", session_id: "s1", messages: [message("user", "hi"), message("assistant", "hello")] });
    byId.prompt.value = "and you?";
    byId.composer.listeners.submit({ preventDefault() {} });
    const { type, message: asked, messages } = socket.sent.at(-1);
    assert.deepEqual([type, asked, messages], ["chat_request", "and you?", undefined]);
    assert.deepEqual(shown().at(-2), ["user", "and you?"]);
  });

  test("A conversation deleted by another tab disappears.", () => {
    socket.says({ type: "history", session_id: "s1", messages: [message("user", "hi")] });
    socket.says({ type: "session_changed", session_id: "s1", title: "New" });
    assert.equal(document.title, "New – wsstream");
    socket.says({ type: "session_changed", session_id: "s1", deleted: true });
    assert.deepEqual([shown(), document.title], [[], "wsstream"]);
  });
});
