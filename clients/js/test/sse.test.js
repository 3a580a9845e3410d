import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EventReader, nativeUrl, SseTransport } from "../sse_transport.js";

const settled = () => new Promise((resolve) => { setImmediate(resolve); });

/** An HTTP server in the test's hands. */
class Server {
  requests = [];
  constructor() {
    this.fetch = (url, { body, headers, signal }) => {
      const request = { url, headers, signal, said: JSON.parse(body) };
      this.requests.push(request);
      return new Promise((resolve, reject) => {
        Object.assign(request, { resolve, reject });
        signal.addEventListener("abort", () => reject(new Error("aborted")));
      });
    };
  }
  get last() { return this.requests.at(-1); }

  /** Answers the newest request with an event stream. */
  async stream() {
    let down;
    const body = new ReadableStream({ start(controller) { down = controller; } });
    this.last.resolve(new Response(body, { status: 200 }));
    await settled();
    return {
      say: async (text) => { down.enqueue(typeof text === "string" ? new TextEncoder().encode(text) : text); await settled(); },
      end: async () => { down.close(); await settled(); },
    };
  }

  async accept(status = 204, headers = {}) {
    this.last.resolve(new Response(null, { status, headers }));
    await settled();
  }
}

async function opened(options = {}) {
  const server = new Server();
  const transport = new SseTransport("http://page/api/native", { fetch: server.fetch, ...options });
  const heard = [];
  const closed = [];
  let open = 0;
  transport.onopen = () => { open += 1; transport.send('{"type":"hello"}'); };
  transport.onmessage = ({ data }) => heard.push(data);
  transport.onclose = (event) => closed.push(event);
  await settled();
  assert.equal(open, 1);
  return { server, transport, heard, closed };
}

const ESTABLISHED = 'data: {"type":"connection_established","connection_id":"c/1"}\n\n';

async function established(options) {
  const all = await opened(options);
  const down = await all.server.stream();
  await down.say(ESTABLISHED);
  return { ...all, down };
}

describe("reading an event stream", () => {
  const TEXT = ': hello\r\nevent: close\r\ndata: a\r\ndata:b\r\nid: 3\r\n\r\ndata: ü😀\n\n\n\ndata\n\nretry: 3\n\ndata: x\rdata: y\r\r';
  const WANTED = [{ event: "close", data: "a\nb" }, { event: "message", data: "ü😀" }, { event: "message", data: "" }, { event: "message", data: "x\ny" }];

  test("Events are the same, wherever the text is cut.", () => {
    for (let size = 1; size <= TEXT.length + 1; size += 1) {
      const reader = new EventReader();
      const found = [];
      for (let at = 0; at < TEXT.length; at += size) found.push(...reader.feed(TEXT.slice(at, at + size)));
      found.push(...reader.feed("\n"));
      assert.deepEqual(found, WANTED, `pieces of ${size}`);
    }
  });

  test("An event without end is not read for ever.", () => {
    const reader = new EventReader();
    assert.throws(() => { for (let i = 0; i < 70; i += 1) reader.feed("x".repeat(1024 * 1024)); }, RangeError);
    const lines = new EventReader();
    assert.throws(() => { for (let i = 0; i < 70; i += 1) lines.feed(`data: ${"x".repeat(1024 * 1024)}\n`); }, RangeError);
  });
});

describe("native messages over HTTP", () => {
  test("A token that was renewed goes with what is said from then on.", async () => {
    const { server, transport } = await established({ token: "old" });
    assert.equal(server.last.headers.Authorization, "Bearer old");
    transport.token = "new";
    transport.send('{"type":"heartbeat"}');
    assert.equal(server.last.headers.Authorization, "Bearer new");
  });

  test("The address is the one beside the WebSocket's.", () => {
    assert.equal(nativeUrl("ws://page/ws"), "http://page/api/native");
    assert.equal(nativeUrl("wss://page/deep/ws?x=1"), "https://page/deep/api/native?x=1");
    assert.equal(nativeUrl("wss://page/"), "https://page/api/native");
  });

  test("The first message opens the stream, and messages come down as they are.", async () => {
    const { server, heard, down } = await established();
    assert.deepEqual(server.requests.map(({ url, said }) => [url, said]), [["http://page/api/native", { type: "hello" }]]);
    await down.say('data: {"type":"heartbeat",');
    await down.say('"timestamp":1}\n\n: nothing\n\n');
    assert.deepEqual(heard.slice(1), ['{"type":"heartbeat","timestamp":1}']);
  });

  test("A character that is cut in the middle arrives whole.", async () => {
    const { heard, down } = await established();
    const bytes = new TextEncoder().encode('data: "😀"\n\n');
    await down.say(bytes.slice(0, 9));
    await down.say(bytes.slice(9));
    assert.equal(heard[1], '"😀"');
  });

  test("What is said before the connection has a name waits; then it goes up in order, one request at a time.", async () => {
    const { server, transport } = await opened();
    transport.send('{"n":1}');
    transport.send('{"n":2}');
    const down = await server.stream();
    await down.say(ESTABLISHED);
    assert.deepEqual([server.requests.length, server.last.url, server.last.said], [2, "http://page/api/native/c%2F1", [{ n: 1 }, { n: 2 }]]);
    transport.send('{"n":3}');
    await settled();
    assert.equal(server.requests.length, 2);
    await server.accept();
    assert.deepEqual(server.last.said, { n: 3 });
  });

  test("A token travels in a header, never in the address.", async () => {
    const { server } = await opened({ token: "secret" });
    assert.equal(server.last.headers.Authorization, "Bearer secret");
    assert.ok(!server.last.url.includes("secret"));
  });

  for (const [status, code] of [[401, 3000], [403, 3003], [429, 4429], [503, 1013], [404, 1006], [500, 1006]]) {
    test(`A refusal with ${status} is a close with ${code}.`, async () => {
      const { server, closed } = await opened();
      await server.accept(status, { "Retry-After": "7" });
      assert.deepEqual(closed, [{ code, reason: `HTTP ${status}`, retryAfterMs: 7000 }]);
    });
  }

  test("The server's close event has its code.", async () => {
    const { closed, down } = await established();
    await down.say('event: close\ndata: {"code":1012,"reason":"restart"}\n\n');
    assert.deepEqual(closed, [{ code: 1012, reason: "restart", retryAfterMs: null }]);
  });

  test("A stream that just ends was lost.", async () => {
    const { closed, down } = await established();
    await down.end();
    assert.equal(closed[0].code, 1006);
  });

  test("A request that fails is a loss, told once.", async () => {
    const { server, transport, closed } = await established();
    transport.send("{}");
    server.last.reject(new Error("Load failed"));
    await settled();
    assert.deepEqual(closed.map(({ code, reason }) => [code, reason]), [[1006, "Load failed"]]);
  });

  test("Closing ends the requests, and nothing is told any more.", async () => {
    const { server, transport, heard, closed } = await established();
    transport.close();
    await settled();
    assert.deepEqual([server.requests[0].signal.aborted, closed, heard.length], [true, [], 1]);
    transport.send("{}");
    assert.equal(server.requests.length, 1);
  });

  test("What cannot be sent is not kept without end.", async () => {
    const { transport, closed } = await opened();
    for (let i = 0; i < 1025; i += 1) transport.send("{}");
    assert.equal(closed[0].reason, "too much to send");
  });
});
