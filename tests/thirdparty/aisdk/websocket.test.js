/** The AI SDK's own WebSocketChatTransport against /ai. The server's provider is tests/data/chatty.py. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { WebSocketChatTransport, lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import { ALL, Chat, proxyTo, textOf, until } from "./chat.js";

const PORT = Number(process.env.WSSTREAM_PORT);
const opened = [];
const toServer = (port = PORT, options = {}) => {
  const transport = new WebSocketChatTransport({ url: `ws://127.0.0.1:${port}/ai`, ...options });
  opened.push(transport);
  return transport;
};
after(() => opened.forEach((transport) => transport.close()));
let count = 0;
const newId = () => `ws-${process.pid}-${count += 1}`;
const running = async (id) => {
  const { streams } = await (await fetch(`http://127.0.0.1:${PORT}/api/sessions/${id}/streams`)).json();
  return streams.filter(({ state }) => state === "running").length;
};

test("an answer, with its figures", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "fast" });
  assert.equal(chat.text, ALL);
  assert.equal(chat.status, "ready");
  assert.equal(chat.finished[0].finishReason, "stop");
  assert.deepEqual(chat.last.metadata.usage, { inputTokens: 3, outputTokens: 4, totalTokens: 7 });
  assert.match(chat.last.metadata.streamId, /^s_/);
});

test("a conversation, and an answer asked for again", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "one" });
  await chat.sendMessage({ text: "two" });
  assert.equal(chat.text, "3 messages, the last: two");
  const id = chat.last.id;
  await chat.regenerate();
  assert.equal(chat.text, "3 messages, the last: two");
  assert.notEqual(chat.last.id, id);
  assert.equal(chat.messages.length, 4);
});

test("a stop stops the answer at the server", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  const sent = chat.sendMessage({ text: "slow" });
  await until(() => chat.text.length > 50);
  await chat.stop();
  await sent;
  assert.equal(chat.finished[0].isAbort, true);
  await until(() => chat.status === "ready");
  let left = 1;
  for (let tries = 0; left && tries < 100; tries += 1) left = await running(chat.id);
  assert.equal(left, 0);
  assert.ok(chat.text.length < ALL.length);
});

test("a page that is loaded anew resumes, and can stop what it resumed", async () => {
  const id = newId();
  const first = new Chat({ id, transport: toServer() });
  const sent = first.sendMessage({ text: "slow" });
  await until(() => first.text.length > 50);
  const user = first.messages[0];
  first.transport.close();
  await sent;
  const second = new Chat({ id, transport: toServer(), messages: [user] });
  const resumed = second.resumeStream();
  await until(() => second.text.length > 600);
  assert.ok(ALL.startsWith(second.text));
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await second.stop();
  await resumed;
  let left = 1;
  for (let tries = 0; left && tries < 100; tries += 1) left = await running(id);
  assert.equal(left, 0);
  const third = new Chat({ id, transport: toServer(), messages: [user] });
  await third.resumeStream();
  assert.equal(third.messages.length, 1, "what was stopped does not come back");
});

test("a page mounted twice resumes twice, and stops nothing", async () => {
  const id = newId();
  const first = new Chat({ id, transport: toServer() });
  const sent = first.sendMessage({ text: "slow" });
  await until(() => first.text.length > 50);
  const user = first.messages[0];
  first.transport.close();
  await sent;
  const second = new Chat({ id, transport: toServer(), messages: [user] });
  const resumes = [second.resumeStream()];
  await new Promise((resolve) => setTimeout(resolve, 30));
  resumes.push(second.resumeStream());
  await Promise.all(resumes);
  assert.equal(second.text, ALL);
  assert.equal(second.messages.length, 2);
});

test("a cut in mid-answer is seen as one, and resumed exactly", async (context) => {
  const proxy = await proxyTo(PORT);
  context.after(() => proxy.close());
  const chat = new Chat({ id: newId(), transport: toServer(proxy.port) });
  const sent = chat.sendMessage({ text: "slow" });
  await until(() => chat.text.length > 50);
  proxy.cut();
  await sent;
  assert.equal(chat.finished[0].isDisconnect, true);
  await chat.resumeStream();
  assert.equal(chat.text, ALL);
  assert.equal(chat.messages.length, 2);
});

test("an answer that ended while nobody was there is all there for who comes back", async (context) => {
  const proxy = await proxyTo(PORT);
  context.after(() => proxy.close());
  const chat = new Chat({ id: newId(), transport: toServer(proxy.port) });
  const sent = chat.sendMessage({ text: "slow" });
  await until(() => chat.text.length > 50);
  proxy.cut();
  await sent;
  while (await running(chat.id)) await new Promise((resolve) => setTimeout(resolve, 20));
  await chat.resumeStream();
  assert.equal(chat.text, ALL);
});

test("nothing to resume", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.resumeStream();
  assert.deepEqual([chat.messages, chat.status, chat.errors], [[], "ready", []]);
});

test("two chats on one socket", async () => {
  const transport = toServer();
  const chats = [1, 2].map(() => new Chat({ id: newId(), transport }));
  const sent = chats.map((chat) => chat.sendMessage({ text: "slow" }));
  await until(() => chats.every((chat) => chat.text.length > 50));
  await chats[0].stop();
  await Promise.all(sent);
  assert.equal(chats[1].text, ALL);
  assert.ok(chats[0].text.length < ALL.length);
});

test("reasoning is a part of its own", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "reason" });
  const parts = chat.last.parts.filter((part) => part.type !== "step-start").map(({ type, text, state }) => ({ type, text, state }));
  assert.deepEqual(parts, [
    { type: "reasoning", text: "Let me think.", state: "done" },
    { type: "text", text: "So be it.", state: "done" },
  ]);
});

test("a tool is called by the model, run by the page, and its result answered", async () => {
  const chat = new Chat({
    id: newId(),
    transport: toServer(),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onToolCall: ({ toolCall }) => {
      assert.deepEqual(toolCall.input, { city: "Ulm" });
      chat.addToolOutput({ tool: "weather", toolCallId: toolCall.toolCallId, output: "rain" });
    },
  });
  await chat.sendMessage({ text: "tool" });
  await until(() => chat.text === "The tool says rain.");
  assert.equal(chat.messages.length, 2, "the answer goes on with the same message");
  const tool = chat.last.parts.find((part) => part.type === "tool-weather");
  assert.deepEqual([tool.state, tool.output], ["output-available", "rain"]);
});

test("a failure comes behind what was said before it", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "fail" });
  assert.equal(chat.text, "half ");
  assert.equal(chat.status, "error");
  assert.match(chat.error.message, /The provider failed/);
});

test("a request that is wrong fails alone", async () => {
  const transport = toServer();
  const chat = new Chat({ id: newId(), transport });
  const slow = chat.sendMessage({ text: "slow" });
  const wrong = new Chat({ id: "no good id!", transport });
  await wrong.sendMessage({ text: "fast" });
  assert.equal(wrong.status, "error");
  await slow;
  assert.equal(chat.text, ALL);
});

test("model and settings are chosen by the body", async () => {
  const chat = new Chat({ id: newId(), transport: toServer(PORT, { body: { model: "their-model", config: { provider: "none" } } }) });
  await chat.sendMessage({ text: "fast" });
  assert.match(chat.error.message, /config.provider/);
  const other = new Chat({ id: newId(), transport: toServer(PORT, { body: { model: "their-model" } }) });
  await other.sendMessage({ text: "fast" });
  assert.equal(other.last.metadata.model, "their-model");
});

test("subprotocols, as some send credentials", async () => {
  const chat = new Chat({ id: newId(), transport: toServer(PORT, { protocols: ["app", "credential"] }) });
  await chat.sendMessage({ text: "fast" });
  assert.equal(chat.text, ALL);
});

test("text is the same over every way to it", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "fast" });
  const { messages } = await (await fetch(`http://127.0.0.1:${PORT}/api/sessions/${chat.id}/messages`)).json();
  assert.equal(messages.at(-1).content, textOf(chat.last));
  assert.equal(messages.at(-1).id, chat.last.id);
});
