import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { onFrames, StreamClient, toolCalls, webSocket } from "../index.js";
import { Clock, installPage, settled, Socket } from "./clock.js";

const clock = new Clock().install();
const page = installPage();
const reported = [];
globalThis.reportError = (error) => reported.push(error.message);
const open = [];

function make(options = {}) {
  const client = new StreamClient("ws://page/ws", options);
  open.push(client);
  return client;
}

function connected(options) {
  const client = make(options);
  client.connect();
  Socket.last.greet();
  return client;
}

function streaming(options) {
  const client = connected(options);
  const stream = client.chat("hi");
  Socket.last.start();
  return { client, stream, socket: Socket.last };
}

/** What happens to somebody, in order: [type, detail]. */
function hear(target, ...types) {
  const heard = [];
  for (const type of types) target.on(type, (detail) => heard.push([type, detail]));
  return heard;
}

/** Reads an answer to its end. */
async function whole(stream) {
  let text = "";
  for await (const piece of stream) text += piece;
  return text;
}

/** Waits out the back-off, and no longer. */
const back = (client) => clock.pass(client.state === "waiting" ? Math.ceil(client.retryInMs) + 1 : 0);

beforeEach(() => {
  for (const client of open.splice(0)) client.close();
  Socket.all = [];
  page.document.hidden = false;
  page.navigator.onLine = true;
  reported.length = 0;
});

describe("events", () => {
  test("A connection tells each of its states, and who it is.", () => {
    const client = make();
    const heard = hear(client, "stateChange", "connected");
    client.connect();
    Socket.last.greet();
    assert.deepEqual(heard.map(([type, { state, sessionId, connectionId }]) => [type, state ?? sessionId, connectionId]), [
      ["stateChange", "connecting", undefined], ["stateChange", "connected", undefined], ["connected", "s1", "c1"],
    ]);
    assert.equal(client.connectionId, "c1");
  });

  test("A loss has code and reason, then the try that follows.", () => {
    const client = connected();
    const heard = hear(client, "connectionLost", "connectionError", "recoveryAttempt");
    Socket.last.onclose({ code: 1011, reason: "oops" });
    assert.deepEqual(heard.map(([type, { code, reason, attempt }]) => [type, code ?? attempt, reason]), [["connectionLost", 1011, "oops"], ["recoveryAttempt", 1, undefined]]);
  });

  test("A connection that never came to be is an error, and the last one says how many there were.", async () => {
    const client = make({ maxTries: 2, transports: [webSocket] });
    const heard = hear(client, "connectionError", "maxRetriesExceeded", "disconnected");
    client.connect();
    for (let i = 0; i < 3; i += 1) {
      Socket.last.onclose({ code: 1006 });
      await back(client);
    }
    assert.equal(Socket.all.length, 3);
    assert.deepEqual(heard.map(([type]) => type), ["connectionError", "connectionError", "connectionError", "maxRetriesExceeded", "disconnected"]);
    assert.equal(heard[3][1].attempts, 2);
  });

  test("A stream's events are the client's as well, and say which stream.", () => {
    const client = connected();
    const heard = hear(client, "start", "contentChunk", "chunkGap", "streamError", "streamFailed", "complete", "end");
    const stream = client.chat("hi");
    const own = hear(stream, "contentChunk", "chunkGap", "streamFailed");
    Socket.last.start().chunks(1, 1);
    Socket.last.chunks(3, 3);
    Socket.last.says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 0, tail_chunk_id: 0, epoch: "e1", state: "failed", window: 8 });
    Socket.last.says({ type: "stream_error", stream_id: "st1", error_type: "content_filter", message: "no", recoverable: false, last_chunk_id: 0 });
    assert.deepEqual(heard.map(([type]) => type), ["start", "contentChunk", "chunkGap", "streamError", "streamFailed", "end"]);
    assert.ok(heard.every(([, detail]) => detail.stream === stream));
    assert.deepEqual(own.map(([type]) => type), ["contentChunk", "chunkGap", "streamFailed"]);
    assert.deepEqual([heard[1][1].chunkId, heard[1][1].content, heard[2][1].expected, heard[2][1].received], [1, "1 ", 2, 3]);
  });

  test("An unknown message is an event, and nothing else.", () => {
    const client = connected();
    const heard = hear(client, "unknownMessage");
    Socket.last.says({ type: "novelty" });
    assert.equal(heard[0][1].message.type, "novelty");
    assert.equal(client.state, "connected");
  });

  test("A listener that throws, or rejects, is reported and breaks nothing.", async () => {
    const { client, stream, socket } = streaming();
    const after = [];
    stream.on("contentChunk", () => { throw new Error("first"); });
    stream.on("contentChunk", async () => { throw new Error("second"); });
    stream.on("contentChunk", ({ content }) => after.push(content));
    client.on("contentChunk", () => { throw new Error("third"); });
    socket.chunks(1, 2);
    await settled();
    assert.deepEqual(after, ["1 ", "2 "]);
    assert.deepEqual(reported.sort(), ["first", "first", "second", "second", "third", "third"]);
    assert.equal(client.state, "connected");
  });

  test("A listener can be taken away again.", () => {
    const client = connected();
    let calls = 0;
    const listener = () => { calls += 1; };
    client.addEventListener("going_away", listener);
    client.removeEventListener("going_away", listener);
    client.on("going_away", listener)();
    Socket.last.says({ type: "going_away", deadline_ms: 1, reconnect_after_ms: 1 });
    assert.equal(calls, 0);
  });
});

describe("one answer", () => {
  test("Iterating gives the text, acknowledges each piece when the next is asked for, and ends.", async () => {
    const { stream, socket } = streaming();
    const pieces = [];
    const reading = (async () => { for await (const text of stream) pieces.push(text); })();
    socket.chunks(1, 3);
    await settled();
    socket.chunks(4, 5);
    await settled();
    assert.deepEqual(socket.said("chunk_ack").map(({ chunk_id }) => chunk_id), [5]);
    socket.complete(5, { parsed: { a: 1 } });
    await reading;
    assert.deepEqual(pieces, ["1 2 3 ", "4 5 "]);
    assert.deepEqual([stream.text, stream.parsed], ["1 2 3 4 5 ", { a: 1 }]);
  });

  test("Iterating goes on over a lost connection, and gives nothing twice.", async () => {
    const { client, stream, socket } = streaming();
    let text = "";
    let release;
    const reading = (async () => { for await (const piece of stream) { text += piece; await new Promise((resolve) => { release = resolve; }); } })();
    socket.chunks(1, 3);
    await settled();
    socket.onclose({ code: 1006 });
    client.connect();
    Socket.last.greet();
    assert.equal(Socket.last.said("resume_stream")[0].last_chunk_id, 0);
    Socket.last.says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 0, tail_chunk_id: 3, epoch: "e1", state: "running", window: 8 });
    release();
    Socket.last.says({ type: "chunk_batch", stream_id: "st1", first_chunk_id: 1, last_chunk_id: 4, content: "1 2 3 4 " });
    await settled();
    release();
    Socket.last.complete(4);
    await reading;
    assert.equal(text, "1 2 3 4 ");
  });

  test("Iterating goes on behind what a rewind left.", async () => {
    const { stream, socket } = streaming();
    const pieces = [];
    const reading = (async () => { for await (const text of stream) pieces.push(text); })();
    socket.chunks(1, 2);
    await settled();
    socket.says({ type: "stream_rewind", stream_id: "st1", chunk_id: 3, to_chunk_id: 1, reason: "retry" });
    socket.says({ type: "content_chunk", stream_id: "st1", chunk_id: 4, content: "new" });
    socket.complete(4);
    await reading;
    assert.deepEqual([pieces, stream.text], [["1 2 ", "new"], "1 new"]);
  });

  test("Iterating a failed answer throws what failed, with the outcome.", async () => {
    const { stream, socket } = streaming();
    const reading = (async () => { for await (const text of stream) assert.fail(text); })();
    socket.says({ type: "stream_error", stream_id: "st1", error_type: "provider_error", message: "It failed.", recoverable: true, last_chunk_id: 0 });
    await assert.rejects(reading, (error) => error.message === "It failed." && error.outcome.error_type === "provider_error");
  });

  test("The pieces of tool calls are joined, however they mix.", () => {
    const { stream, socket } = streaming();
    const says = (chunk_id, ...lines) => socket.says({ type: "content_chunk", stream_id: "st1", chunk_id, content: lines.map((line) => `${JSON.stringify(line)}\n`).join(""), kind: "tool_call" });
    says(1, { index: 0, id: "a", name: "f" }, { index: 0, arguments: '{"x"' });
    assert.deepEqual(toolCalls(stream), [{ index: 0, id: "a", name: "f", arguments: '{"x"' }]);
    says(2, { index: 1, id: "b", name: "g" }, { index: 0, arguments: ":1}" }, null, 7);
    assert.deepEqual(toolCalls(stream), [{ index: 0, id: "a", name: "f", arguments: '{"x":1}' }, { index: 1, id: "b", name: "g" }]);
  });

  test("Every kind is kept for itself; a line that is not complete waits.", () => {
    const { stream, socket } = streaming();
    const call = (chunk_id, content) => socket.says({ type: "content_chunk", stream_id: "st1", chunk_id, content, kind: "tool_call" });
    call(1, '{"name":');
    assert.deepEqual(toolCalls(stream), []);
    call(2, '"f"}\n{"name":"g"}\n{"na');
    socket.chunks(3, 3, { kind: "reasoning" });
    socket.chunks(4, 4, { kind: "data" });
    assert.deepEqual(toolCalls(stream), [{ name: "f" }, { name: "g" }]);
    assert.deepEqual([stream.text, stream.reasoning, stream.data], ["", "3 ", "4 "]);
  });

  test("A cancel acts within a flood, whatever is rendered.", async () => {
    const { stream, socket } = streaming();
    socket.chunks(1, 8);
    stream.cancel();
    assert.equal(socket.said("cancel_stream").length, 1);
    socket.complete(8, { finish_reason: "cancelled" });
    assert.equal((await stream.done).finish_reason, "cancelled");
  });

  test("A cancel without a connection is sent on the next one.", () => {
    const { client, stream, socket } = streaming();
    socket.onclose({ code: 1006 });
    stream.cancel();
    client.connect();
    Socket.last.greet();
    assert.deepEqual(Socket.last.sent.map(({ type }) => type), ["hello", "resume_stream", "cancel_stream"]);
  });

  test("A stream that was left holds nobody up: what comes is acknowledged and thrown away.", () => {
    const { stream, socket } = streaming();
    socket.chunks(1, 2);
    stream.leave();
    socket.chunks(3, 8);
    assert.equal(socket.said("chunk_ack").at(-1).chunk_id, 8);
    assert.equal(stream.text, "1 2 ");
  });

  test("Text is read from a place on at the price of what is new.", () => {
    const { stream, socket } = streaming();
    socket.chunks(1, 5);
    assert.deepEqual([stream.textFrom(0), stream.textFrom(3), stream.textFrom(10), stream.textFrom(99)], ["1 2 3 4 5 ", " 3 4 5 ", "", ""]);
  });
});

describe("frames", () => {
  test("However many chunks come, one frame draws once, and then acknowledges.", () => {
    const { stream, socket } = streaming();
    const drawn = [];
    onFrames(stream, ({ text }) => drawn.push(text));
    page.frame();
    socket.chunks(1, 5);
    assert.deepEqual([drawn, socket.said("chunk_ack")], [[""], []]);
    page.frame();
    assert.deepEqual(drawn, ["", "1 2 3 4 5 "]);
    assert.equal(socket.said("chunk_ack")[0].chunk_id, 5);
  });

  test("What comes while somebody draws is not taken for drawn.", () => {
    const { stream, socket } = streaming();
    const stop = onFrames(stream, () => { if (stream.lastChunkId === 5) socket.chunks(6, 6); });
    socket.chunks(1, 5);
    page.frame();
    stop();
    assert.equal(socket.said("chunk_ack")[0].chunk_id, 5);
  });

  test("A window that gets no frames is drawn by a timer.", async () => {
    const { stream, socket } = streaming();
    const drawn = [];
    onFrames(stream, ({ text }) => drawn.push(text));
    socket.chunks(1, 1);
    await clock.pass(150);
    assert.deepEqual(drawn, ["1 "]);
  });

  test("A hidden page keeps an answer flowing without any frame or timer.", () => {
    const { stream, socket } = streaming();
    page.hide(true);
    onFrames(stream, () => {});
    for (let id = 1; id <= 100; id += 1) {
      assert.ok(stream.info.inFlight < 8, "the server would wait now");
      socket.chunks(id, id);
    }
    assert.ok(socket.said("chunk_ack").length <= 25);
  });

  test("What was not drawn when the page was hidden is drawn then.", () => {
    const { stream, socket } = streaming();
    const drawn = [];
    onFrames(stream, ({ text }) => drawn.push(text));
    socket.chunks(1, 1);
    page.hide(true);
    assert.deepEqual(drawn, ["1 "]);
  });

  test("Whoever stops drawing is not called again.", async () => {
    const { stream, socket } = streaming();
    const drawn = [];
    const stop = onFrames(stream, ({ text }) => drawn.push(text));
    socket.chunks(1, 1);
    stop();
    page.frame();
    page.hide(true);
    await clock.pass(1000);
    assert.deepEqual(drawn, []);
  });
});

describe("dead sockets", () => {
  for (const wake of ["online", "pageshow", "offline"]) {
    test(`After ${wake} a socket that does not answer within two seconds is left, and another one is there at once.`, async () => {
      connected();
      page.tell(wake);
      assert.equal(Socket.last.said("heartbeat").length, 1);
      await clock.pass(1_999);
      assert.equal(Socket.all.length, 1);
      await clock.pass(1);
      assert.equal(Socket.all[0].closedWith, 3008);
      assert.equal(Socket.all.length, 2);
    });
  }

  test("A page that comes to the front asks, and an answer keeps the socket.", async () => {
    const client = connected();
    page.hide(true);
    assert.equal(Socket.last.said("heartbeat").length, 0);
    page.hide(false);
    const [{ timestamp }] = Socket.last.said("heartbeat");
    clock.now += 40;
    Socket.last.says({ type: "heartbeat_ack", timestamp });
    await clock.pass(5_000);
    assert.equal(Socket.all.length, 1);
    assert.equal(client.stats().roundTripMs, 40);
  });

  test("A network that is back ends the wait.", async () => {
    connected();
    Socket.last.onclose({ code: 1006 });
    const before = Socket.all.length;
    page.tell("online");
    await clock.pass(0);
    assert.equal(Socket.all.length, before + 1);
  });

  test("Waking up does not break in on a wait that the server asked for.", async () => {
    connected();
    Socket.last.says({ type: "going_away", deadline_ms: 1, reconnect_after_ms: 9_000 });
    Socket.last.onclose({ code: 1012 });
    page.tell("online");
    await clock.pass(8_999);
    assert.equal(Socket.all.length, 1);
    await clock.pass(1);
    assert.equal(Socket.all.length, 2);
  });

  test("Without a network tries are not counted, and one that is back is used.", async () => {
    const client = make({ maxTries: 1 });
    client.connect();
    page.navigator.onLine = false;
    page.tell("offline");
    for (let i = 0; i < 5; i += 1) {
      Socket.last.onclose({ code: 1006 });
      await back(client);
    }
    assert.equal(client.state, "connecting");
    page.navigator.onLine = true;
    page.tell("online");
    Socket.last.onclose({ code: 1006 });
    assert.equal(client.state, "waiting");
  });

  test("A client that gave up tries again when the network is back.", () => {
    const client = make({ maxTries: 0 });
    client.connect();
    Socket.last.onclose({ code: 1006 });
    assert.equal(client.state, "stopped");
    page.tell("online");
    assert.equal(client.state, "connecting");
  });

  test("A closed client listens to nothing, and has no timer left.", () => {
    const client = connected();
    client.close();
    const timers = clock.pending;
    page.tell("offline");
    assert.deepEqual([client.state, client.session.online, Socket.all.length, clock.pending], ["stopped", true, 1, timers]);
  });
});

describe("tokens", () => {
  test("A string goes into the hello.", () => {
    const client = make({ token: "abc" });
    client.connect();
    Socket.last.onopen();
    assert.equal(Socket.last.sent[0].token, "abc");
    assert.ok(!Socket.last.url.includes("abc"));
  });

  test("A function is asked for every connection, and again after 3000, at once.", async () => {
    let tokens = 0;
    const client = make({ token: async () => `t${tokens += 1}` });
    client.connect();
    await settled();
    Socket.last.onopen();
    Socket.last.onclose({ code: 3000, reason: "expired" });
    await clock.pass(0);
    await settled();
    Socket.last.greet();
    assert.equal(Socket.last.sent[0].token, "t2");
    assert.equal(client.state, "connected");
  });

  test("A token that ran out once more after a greeting is renewed once more.", async () => {
    const client = make({ token: () => "t" });
    client.connect();
    for (let i = 0; i < 3; i += 1) {
      await clock.pass(0);
      Socket.last.greet();
      Socket.last.onclose({ code: 3000 });
      assert.notEqual(client.state, "stopped");
    }
  });

  test("A function that fails for a connection that is given up does not harm the next one.", async () => {
    const fails = [];
    const client = make({ token: () => new Promise((_, reject) => { fails.push(reject); }) });
    client.connect();
    client.close();
    client.connect();
    fails[0](new Error("late"));
    await settled();
    assert.equal(client.state, "connecting");
  });

  test("A second 3000 in a row is an answer: streams wait for connect.", async () => {
    const client = make({ token: () => "t" });
    const stream = client.chat("hi");
    client.connect();
    for (let i = 0; i < 2; i += 1) {
      await clock.pass(0);
      Socket.last.onopen();
      Socket.last.onclose({ code: 3000 });
    }
    assert.deepEqual([client.state, stream.outcome, Socket.all.length], ["stopped", null, 2]);
  });

  test("A function that fails is a failed try.", async () => {
    const client = make({ token: () => { throw new Error("no network"); } });
    const heard = hear(client, "connectionError");
    client.connect();
    await settled();
    assert.equal(heard[0][1].reason, "no network");
    assert.equal(client.state, "waiting");
  });

  test("Before a token runs out another one is shown on the same connection, and streams go on.", async () => {
    let tokens = 0;
    const client = make({ token: () => `t${tokens += 1}` });
    const heard = hear(client, "token_renewed");
    client.connect();
    await settled();
    Socket.last.greet({ expires_in: 8 });
    await clock.pass(8_000);
    assert.deepEqual(Socket.last.said("renew_token").map(({ token }) => token), ["t2"]);
    Socket.last.says({ type: "token_renewed", expires_in: 100 });
    assert.deepEqual([heard.length, Socket.last.token, Socket.all.length], [1, "t2", 1]);
  });

  test("A function that fails then is told, and asked again.", async () => {
    let asked = 0;
    const client = make({ random: () => 0, token: () => { asked += 1; if (asked === 2) throw new Error("no network"); return `t${asked}`; } });
    const heard = hear(client, "tokenError");
    client.connect();
    await settled();
    Socket.last.greet({ expires_in: 4 });
    await clock.pass(2_800);
    assert.deepEqual([heard.map(([, { error }]) => error.message), Socket.last.said("renew_token").length], [["no network"], 0]);
    await clock.pass(1_000);
    assert.deepEqual([Socket.last.said("renew_token").map(({ token }) => token), client.state], [["t3"], "connected"]);
  });

  test("A token that comes when its connection is gone is shown to nobody.", async () => {
    const gives = [];
    const client = make({ token: () => new Promise((resolve) => { gives.push(resolve); }) });
    client.connect();
    gives[0]("t1");
    await settled();
    Socket.last.greet({ expires_in: 2 });
    await clock.pass(1_600);
    assert.equal(gives.length, 2);
    const [socket] = Socket.all;
    client.close();
    gives[1]("t2");
    await settled();
    assert.equal(socket.said("renew_token").length, 0);
  });

  test("A token that comes after the client was closed opens nothing.", async () => {
    let give;
    const client = make({ token: () => new Promise((resolve) => { give = resolve; }) });
    client.connect();
    client.close();
    await settled();
    give?.("late");
    await settled();
    assert.equal(Socket.all.length, 0);
  });
});

describe("transports", () => {
  const other = Object.assign((url) => new Socket(`other:${url}`), { label: "other" });

  test("One that was never established is given up for the next after two tries.", async () => {
    const client = make({ transports: [webSocket, other] });
    client.connect();
    for (let i = 0; i < 2; i += 1) {
      Socket.last.onclose({ code: 1006 });
      await back(client);
    }
    assert.deepEqual(Socket.all.map(({ url }) => url), ["ws://page/ws", "ws://page/ws", "other:ws://page/ws"]);
    Socket.last.greet();
    assert.equal(client.stats().transport, "other");
  });

  test("One that was established once is kept, however often it fails.", async () => {
    const client = connected({ transports: [webSocket, other], maxTries: 9 });
    for (let i = 0; i < 5; i += 1) {
      Socket.last.onclose({ code: 1006 });
      await back(client);
    }
    assert.ok(Socket.all.every(({ url }) => url === "ws://page/ws"));
  });

  test("Where WebSockets are blocked, the address beside theirs is asked over HTTP, without a wait between.", async () => {
    const asked = [];
    globalThis.fetch = (url) => { asked.push(url); return new Promise(() => {}); };
    const client = make();
    client.connect();
    Socket.last.onclose({ code: 1006 });
    await back(client);
    Socket.last.onclose({ code: 1006 });
    assert.equal(client.retryInMs, 0);
    await clock.pass(0);
    await import("../sse_transport.js"); // it is loaded only now
    await settled();
    assert.deepEqual([Socket.all.length, asked, client.stats().transport], [2, ["http://page/api/native"], "sse"]);
  });

  test("One that swallows what is said is given up after one timeout.", async () => {
    const client = make({ transports: [webSocket, other] });
    client.connect();
    await clock.pass(10_001);
    assert.deepEqual(Socket.all.map(({ url }) => url), ["ws://page/ws", "other:ws://page/ws"]);
  });

  test("Whoever is told by the server why it is closed has a transport that works.", async () => {
    const client = make({ transports: [webSocket, other] });
    client.connect();
    for (let i = 0; i < 4; i += 1) {
      Socket.last.onclose({ code: 1013 });
      await back(client);
    }
    assert.ok(Socket.all.every(({ url }) => url === "ws://page/ws"));
  });

  test("After the last one comes the first again, now with a wait.", async () => {
    const client = make({ transports: [webSocket, other], transportTries: 1 });
    client.connect();
    Socket.last.onclose({ code: 1006 });
    await clock.pass(0);
    Socket.last.onclose({ code: 1006 });
    assert.notEqual(client.retryInMs, 0);
    await back(client);
    assert.deepEqual(Socket.all.map(({ url }) => url), ["ws://page/ws", "other:ws://page/ws", "ws://page/ws"]);
  });

  test("Whoever connects anew may be in another network: what worked in the old one may be given up.", async () => {
    const client = connected({ transports: [webSocket, other], maxTries: 1 });
    Socket.last.onclose({ code: 1006 });
    await back(client);
    Socket.last.onclose({ code: 1006 });
    assert.equal(client.state, "stopped");
    client.connect();
    Socket.last.onclose({ code: 1006 });
    await back(client);
    Socket.last.onclose({ code: 1006 });
    client.connect();
    assert.equal(Socket.last.url, "other:ws://page/ws");
  });

  test("One whose module is still being loaded opens nothing for a client that was closed meanwhile.", async () => {
    let load;
    const made = [];
    const client = make({ transports: [() => new Promise((resolve) => { load = resolve; })] });
    client.connect();
    client.close();
    load((url) => { made.push(url); });
    await settled();
    assert.deepEqual(made, []);
  });

  test("One whose module cannot be loaded is a failed try.", async () => {
    const client = make({ transports: [() => Promise.reject(new Error("no module"))] });
    const heard = hear(client, "connectionError");
    client.connect();
    await settled();
    assert.deepEqual([heard[0][1].reason, client.state], ["no module", "waiting"]);
  });

  test("One that cannot even be made is a failed try.", async () => {
    const broken = () => { throw new Error("not here"); };
    const client = make({ transports: [broken, other], transportTries: 1 });
    client.connect();
    await back(client);
    Socket.last.greet();
    assert.equal(client.state, "connected");
  });

  test("A binary message is a bug, and ends the connection for good.", () => {
    const client = connected();
    Socket.last.onmessage({ data: new ArrayBuffer(1) });
    assert.equal(client.state, "stopped");
  });
});

describe("sessions", () => {
  test("The session's streams are a promise, kept by the answer.", async () => {
    const client = connected();
    const listed = client.list();
    const streams = [{ stream_id: "st9", last_chunk_id: 3, state: "running" }];
    Socket.last.says({ type: "stream_list", streams });
    assert.deepEqual(await listed, streams);
  });

  test("After a lost connection the next one keeps that promise, and a server that refuses breaks it.", async () => {
    const client = connected();
    const listed = client.list();
    Socket.last.onclose({ code: 1006 });
    client.connect();
    Socket.last.greet();
    assert.equal(Socket.last.said("list_streams").length, 1);
    Socket.last.says({ type: "error", error_type: "rate_limit", message: "Too often.", recoverable: true });
    await assert.rejects(listed, /Too often/);
  });

  test("A list of streams is no answer to a question about messages.", async () => {
    const client = connected();
    const asked = client.history();
    Socket.last.says({ type: "stream_list", streams: [] }, { type: "history", session_id: "s1", messages: [{ id: "m1" }] });
    assert.deepEqual((await asked).messages, [{ id: "m1" }]);
  });

  test("A session's messages are a promise over connections.", async () => {
    const client = connected();
    const asked = client.history("s9");
    Socket.last.onclose({ code: 1006 });
    client.connect();
    Socket.last.greet();
    assert.equal(Socket.last.said("get_history")[0].session_id, "s9");
    Socket.last.says({ type: "history", session_id: "s9", messages: [] });
    assert.deepEqual((await asked).messages, []);
  });

  test("A long conversation is read page by page, or one page of it.", async () => {
    const client = connected();
    const pages = { undefined: { messages: [{ id: "m3" }], more: true, title: "t" }, m3: { messages: [{ id: "m1" }, { id: "m2" }], more: true }, m1: { messages: [{ id: "m0" }] } };
    const says = async () => {
      for (let n = 0; n < 3; n += 1) {
        Socket.last.says({ type: "history", session_id: "s1", ...pages[Socket.last.said("get_history").at(-1).before] });
        await undefined;
        await undefined;
      }
    };
    const all = client.history();
    await says();
    assert.deepEqual((await all).messages.map(({ id }) => id), ["m0", "m1", "m2", "m3"]);
    assert.deepEqual(Socket.last.said("get_history").map(({ before }) => before), [undefined, "m3", "m1"]);
    const one = client.history("s9", { before: "m3", limit: 2 });
    assert.deepEqual(Socket.last.said("get_history").at(-1), { type: "get_history", session_id: "s9", before: "m3", limit: 2 });
    Socket.last.says({ type: "history", session_id: "s9", ...pages.m3 });
    assert.deepEqual((await one).more, true);
  });

  test("A refused question says why, and a closed client answers none.", async () => {
    const client = connected();
    const refused = client.history("s9");
    Socket.last.says({ type: "error", error_type: "forbidden", message: "No.", recoverable: false });
    await assert.rejects(refused, /No\./);
    const open = client.history();
    client.close();
    await assert.rejects(open, /closed/);
    await assert.rejects(client.history(), /closed/);
  });

  test("Renaming and deleting say whether they were sent.", () => {
    const client = connected();
    assert.deepEqual([client.rename("New"), client.deleteSession("s9")], [true, true]);
    assert.deepEqual(Socket.last.sent.slice(1), [{ type: "rename_session", title: "New" }, { type: "delete_session", session_id: "s9" }]);
    assert.equal(make().rename("x"), false);
  });

  test("What another tab began can be followed from its start.", () => {
    const client = connected();
    const stream = client.follow("st1");
    Socket.last.says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 0, tail_chunk_id: 2, epoch: "e", state: "running", window: 8 });
    Socket.last.chunks(1, 2);
    assert.equal(stream.text, "1 2 ");
  });

  test("A client that was replaced by another tab stops.", () => {
    const { client, stream, socket } = streaming();
    socket.onclose({ code: 4409, reason: "replaced" });
    assert.deepEqual([client.state, stream.outcome.ok], ["stopped", false]);
  });

  test("A client that was too slow comes back, later.", () => {
    const { client, socket } = streaming();
    socket.onclose({ code: 4429 });
    assert.equal(client.state, "waiting");
  });
});

describe("limits", () => {
  test("What a server sends beyond the limit is not kept, and comes again when its reader has caught up.", () => {
    const { stream, socket } = streaming({ maxBufferedPieces: 4 });
    socket.chunks(1, 20);
    assert.deepEqual([stream.lastChunkId, stream.info.bufferedPieces], [4, 4]);
    stream.rendered(2);
    assert.equal(socket.said("resume_stream").length, 0);
    stream.rendered(4);
    assert.deepEqual(socket.said("resume_stream").map(({ last_chunk_id }) => last_chunk_id), [4]);
    socket.says({ type: "stream_resumed", stream_id: "st1", last_chunk_id: 4, tail_chunk_id: 20, epoch: "e1", state: "running", window: 8 });
    socket.chunks(5, 6);
    assert.equal(stream.text, "1 2 3 4 5 6 ");
  });

  test("Bytes are counted as they are in UTF-8.", () => {
    const { client, stream, socket } = streaming({ maxBufferedBytes: 10 });
    const say = (chunk_id) => socket.says({ type: "content_chunk", stream_id: "st1", chunk_id, content: "é€😀" });
    say(1);
    assert.equal(client.stats().buffered.bytes, 9);
    say(2);
    say(3);
    assert.deepEqual([client.stats().buffered, stream.lastChunkId], [{ pieces: 2, bytes: 18 }, 2]);
  });

  test("A request that is larger than the server reads fails at once, by its bytes, and nothing else is disturbed.", async () => {
    const client = make();
    const early = client.chat("é".repeat(1_000));
    const asked = client.chat("hi");
    client.connect();
    const socket = Socket.last.greet({ limits: { max_message_bytes: 1_500 } });
    await assert.rejects(whole(early), /Too large: 2\d\d\d bytes, the server reads 1500/);
    const late = client.chat("é".repeat(700));
    assert.equal(late.outcome.error_type, "message_too_large");
    assert.equal((await late.done).recoverable, false);
    assert.equal(client.chat("e".repeat(700)).outcome, null);
    assert.equal(client.rename("é".repeat(1_000)), false);
    assert.deepEqual(socket.said("chat_request").map(({ message }) => message.length), [2, 700]);
    assert.deepEqual([client.state, asked.outcome, Socket.all.length], ["connected", null, 1]);
  });

  test("A question about messages that is too large is refused, and the next one is asked.", async () => {
    const client = make();
    client.connect();
    Socket.last.greet({ limits: { max_message_bytes: 1_000 } });
    const [large, small] = [client.history("s".repeat(1_000)), client.history("s9")];
    await assert.rejects(large, /Too large/);
    Socket.last.says({ type: "history", session_id: "s9", messages: [] });
    assert.deepEqual((await small).messages, []);
  });

  test("More questions at once than anybody needs are refused, and say so.", async () => {
    const client = make();
    for (let i = 0; i < 32; i += 1) client.history().catch(() => {});
    await assert.rejects(client.history(), /Too many questions/);
  });

  for (const [why, end] of [["1009: too big", () => Socket.last.onclose({ code: 1009, reason: "too big" })], ["1000", (client) => client.close()]]) {
    test(`After a close for good (${why}) all that was asked, and is asked later, fails at once and says why.`, async () => {
      const { client, stream } = streaming();
      const asked = [client.chat("a second one"), client.history(), client.list()];
      end(client);
      asked.push(client.chat("later"), client.follow("st9"), client.history(), client.list());
      for (const one of [stream, ...asked]) await assert.rejects(one instanceof Promise ? one : whole(one), { message: `Connection closed for good (${why}).` });
      assert.deepEqual([stream.cancel(), asked[0].cancel(), client.rename("x"), client.deleteSession()], [false, false, false, false]);
      assert.deepEqual(client.streams, []);
      client.connect();
      assert.equal(client.chat("anew").outcome, null);
    });
  }

  test("More streams than anybody needs are refused.", () => {
    const client = connected();
    for (let i = 0; i < 256; i += 1) client.chat("hi");
    assert.throws(() => client.chat("hi"), RangeError);
  });

  test("A long answer in small pieces costs no more per piece at its end than at its start.", () => {
    const { stream, socket } = streaming();
    const each = (from, count) => {
      let copied = 0;
      for (let id = from; id < from + count; id += 1) {
        const at = stream.info.textLength;
        socket.says({ type: "content_chunk", stream_id: "st1", chunk_id: id, content: "word " });
        copied += stream.textFrom(at).length;
        stream.rendered();
      }
      return copied;
    };
    assert.equal(each(1, 1000), each(1001, 1000));
    assert.equal(stream.text.length, 10_000);
  });

  test("The figures of the client are those of its streams.", () => {
    const { client, stream, socket } = streaming();
    socket.chunks(1, 3);
    stream.rendered(2);
    socket.onclose({ code: 1006 });
    client.connect();
    const { window, streams, reconnects, connections, messages, bytesReceived, bytesSent, inFlight } = client.stats();
    assert.deepEqual([window, streams, reconnects, connections, messages, inFlight], [8, 1, 1, 1, 5, 2]);
    assert.ok(bytesReceived > 200 && bytesSent > 100);
  });
});
