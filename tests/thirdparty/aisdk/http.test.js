/** The AI SDK's default transport, over HTTP, against /api/ai/chat. The server's provider is tests/data/chatty.py. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import { ALL, Chat, proxyTo, until } from "./chat.js";

const PORT = Number(process.env.WSSTREAM_PORT);
const toServer = (port = PORT, options = {}) => new DefaultChatTransport({ api: `http://127.0.0.1:${port}/api/ai/chat`, ...options });
const streamOf = (id) => `http://127.0.0.1:${PORT}/api/ai/chat/${id}/stream`;
let count = 0;
const newId = () => `http-${process.pid}-${count += 1}`;

test("an answer, with its figures", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "fast" });
  assert.equal(chat.text, ALL);
  assert.equal(chat.finished[0].finishReason, "stop");
  assert.equal(chat.last.metadata.usage.totalTokens, 7);
});

test("the stream's marks", async () => {
  const messages = [{ id: "1", role: "user", parts: [{ type: "text", text: "x" }] }];
  const response = await fetch(`http://127.0.0.1:${PORT}/api/ai/chat`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ id: newId(), messages, trigger: "submit-message" }),
  });
  assert.equal(response.headers.get("x-vercel-ai-ui-message-stream"), "v1");
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  assert.match(await response.text(), /data: \[DONE\]\n\n$/);
});

test("a client that was cut off resumes exactly, and 204 says that nothing runs", async (context) => {
  const proxy = await proxyTo(PORT);
  context.after(() => proxy.close());
  const chat = new Chat({ id: newId(), transport: toServer(proxy.port) });
  const sent = chat.sendMessage({ text: "slow" });
  await until(() => chat.text.length > 50);
  proxy.cut();
  await sent;
  assert.equal(chat.finished[0].isError, true);
  await chat.resumeStream();
  assert.equal(chat.text, ALL);
  assert.equal(chat.messages.length, 2);
  assert.equal((await fetch(streamOf(chat.id))).status, 204);
  assert.equal((await fetch(streamOf(newId()))).status, 204);
});

test("a stop has its own request, and works after a resume", async () => {
  const id = newId();
  const first = new Chat({ id, transport: toServer() });
  const sent = first.sendMessage({ text: "slow" });
  await until(() => first.text.length > 50);
  await first.stop();
  await sent;
  const second = new Chat({ id, transport: toServer(), messages: [first.messages[0]] });
  const resumed = second.resumeStream();
  await until(() => second.text.length > first.text.length, 5000);
  assert.equal((await fetch(streamOf(id), { method: "DELETE" })).status, 204);
  await resumed;
  assert.ok(second.text.length < ALL.length);
  assert.equal((await fetch(streamOf(id))).status, 204);
});

test("tools and reasoning", async () => {
  const chat = new Chat({
    id: newId(),
    transport: toServer(),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onToolCall: ({ toolCall }) => { chat.addToolOutput({ tool: "weather", toolCallId: toolCall.toolCallId, output: "rain" }); },
  });
  await chat.sendMessage({ text: "tool" });
  await until(() => chat.text === "The tool says rain.");
  assert.equal(chat.messages.length, 2);
  await chat.sendMessage({ text: "reason" });
  assert.equal(chat.last.parts.find((part) => part.type === "reasoning").text, "Let me think.");
});

test("an error is told in words", async () => {
  const chat = new Chat({ id: newId(), transport: toServer(PORT, { body: { config: { provider: "none" } } }) });
  await chat.sendMessage({ text: "fast" });
  assert.equal(chat.error.message, "config.provider: there is no such provider");
  const failing = new Chat({ id: newId(), transport: toServer() });
  await failing.sendMessage({ text: "fail" });
  assert.equal(failing.text, "half ");
  assert.match(failing.error.message, /The provider failed/);
});
