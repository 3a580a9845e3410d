/** `WsstreamChatTransport` under the AI SDK's own chat, on the native wire. The server's provider is tests/data/chatty.py. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import { WsstreamChatTransport } from "./wsstream/aisdk.js";
import { ALL, Chat, proxyTo, until } from "./chat.js";

const PORT = Number(process.env.WSSTREAM_PORT);
const opened = [];
const toServer = (port = PORT, options = {}) => {
  const transport = new WsstreamChatTransport(`ws://127.0.0.1:${port}/ws`, options);
  opened.push(transport);
  return transport;
};
after(() => opened.forEach((transport) => transport.close()));
let count = 0;
const newId = () => `native-${process.pid}-${count += 1}`;
const running = async (id) => {
  const { streams } = await (await fetch(`http://127.0.0.1:${PORT}/api/sessions/${id}/streams`)).json();
  return streams.filter(({ state }) => state === "running").length;
};

test("an answer, with its figures, and another one asked for", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "fast" });
  assert.equal(chat.text, ALL);
  assert.equal(chat.finished[0].finishReason, "stop");
  assert.equal(chat.last.metadata.usage.totalTokens, 7);
  await chat.sendMessage({ text: "two" });
  assert.equal(chat.text, "3 messages, the last: two");
  await chat.regenerate();
  assert.equal(chat.text, "3 messages, the last: two");
});

test("cuts in mid-answer are not even noticed", async (context) => {
  const proxy = await proxyTo(PORT);
  context.after(() => proxy.close());
  const chat = new Chat({ id: newId(), transport: toServer(proxy.port) });
  const sent = chat.sendMessage({ text: "slow" });
  for (const length of [100, 600]) {
    await until(() => chat.text.length > length);
    proxy.cut();
  }
  await sent;
  assert.equal(chat.text, ALL);
  assert.deepEqual([chat.errors, chat.status, chat.messages.length], [[], "ready", 2]);
});

test("a stop stops the answer at the server", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  const sent = chat.sendMessage({ text: "slow" });
  await until(() => chat.text.length > 50);
  await chat.stop();
  await sent;
  assert.equal(chat.finished[0].isAbort, true);
  for (let tries = 0; await running(chat.id); tries += 1) assert.ok(tries < 100);
  assert.ok(chat.text.length < ALL.length);
});

test("a page that is loaded anew resumes, and can stop what it resumed", async () => {
  const id = newId();
  const first = new Chat({ id, transport: toServer() });
  const sent = first.sendMessage({ text: "slow" }).catch(() => {});
  await until(() => first.text.length > 50);
  first.transport.close();
  const second = new Chat({ id, transport: toServer(), messages: [first.messages[0]] });
  const resumed = second.resumeStream();
  await until(() => second.text.length > 600);
  assert.ok(ALL.startsWith(second.text));
  assert.equal(second.last.id, first.last.id);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await second.stop();
  await resumed;
  for (let tries = 0; await running(id); tries += 1) assert.ok(tries < 100);
  await sent;
});

test("a page mounted twice resumes twice, and stops nothing", async () => {
  const id = newId();
  const first = new Chat({ id, transport: toServer() });
  void first.sendMessage({ text: "slow" }).catch(() => {});
  await until(() => first.text.length > 50);
  const second = new Chat({ id, transport: toServer(), messages: [first.messages[0]] });
  const resumes = [second.resumeStream()];
  await new Promise((resolve) => setTimeout(resolve, 30));
  resumes.push(second.resumeStream());
  await Promise.all(resumes);
  assert.equal(second.text, ALL);
  assert.equal(second.messages.length, 2);
});

test("a stop right after a resume is meant", async () => {
  const id = newId();
  const first = new Chat({ id, transport: toServer() });
  void first.sendMessage({ text: "slow" }).catch(() => {});
  await until(() => first.text.length > 50);
  const second = new Chat({ id, transport: toServer(), messages: [first.messages[0]] });
  const resumed = second.resumeStream();
  await until(() => second.text.length > 50);
  await second.stop();
  await resumed;
  await new Promise((resolve) => setTimeout(resolve, 1100));
  for (let tries = 0; await running(id); tries += 1) assert.ok(tries < 100);
  assert.ok(first.text.length < ALL.length);
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

test("the server's own history, with only new messages on the way", async () => {
  const chat = new Chat({ id: newId(), transport: toServer(PORT, { history: "server" }) });
  await chat.sendMessage({ text: "one" });
  await chat.sendMessage({ text: "two" });
  assert.equal(chat.text, "3 messages, the last: two");
});

test("a chat that does not read holds the server back", async () => {
  const transport = toServer(PORT, { window: 10 });
  const messages = [{ id: "1", role: "user", parts: [{ type: "text", text: "fast" }] }];
  const stream = await transport.sendMessages({ chatId: newId(), trigger: "submit-message", messages });
  const reader = stream.getReader();
  const first = [];
  for (let n = 0; n < 4; n += 1) first.push((await reader.read()).value);
  assert.equal(first[0].type, "start");
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.ok(transport.client.stats().buffered.pieces <= 10);
  let text = first[3].delta;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (value.type === "text-delta") text += value.delta;
  }
  assert.equal(text, ALL);
});

test("a failure comes behind what was said before it", async () => {
  const chat = new Chat({ id: newId(), transport: toServer() });
  await chat.sendMessage({ text: "fail" });
  assert.equal(chat.text, "half ");
  assert.match(chat.error.message, /The provider failed/);
});
