import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { ChatStream, Session } from "../wsstream.js";

const ESTABLISHED = {
  type: "connection_established", connection_id: "c1", session_id: "s1",
  heartbeat_interval: 10, heartbeat_timeout: 30, window: 8, active_streams: [],
};

/** A session with the server's end of the conversation in the test's hands. */
class Talk {
  now = 1000;
  events = [];
  constructor(options = {}) { this.session = new Session({ random: () => 0.5, ...options }); }

  /** Does something and returns what the client sent because of it. */
  after(step) {
    step?.(this.session, this.now);
    this.session.tick(this.now);
    const { sends, events } = this.session.take();
    this.events.push(...events);
    return sends.map((text) => JSON.parse(text));
  }

  says(...messages) {
    return messages.flatMap((message) => this.after((session, now) => session.receive(JSON.stringify(message), now)));
  }

  wait(ms) { this.now += ms; return this.after(); }

  arrive(extra = {}) {
    const hello = this.after((session, now) => session.opened(now));
    return [...hello, ...this.says({ ...ESTABLISHED, ...extra })];
  }

  lose(code = 1006) { return this.after((session, now) => session.disconnected(code, now)); }

  /** Waits out the back-off and connects again. */
  comeBack(extra) {
    this.now = Math.max(this.now, this.session.timer());
    this.after();
    return this.arrive(extra);
  }

  ask() {
    const request = { requestId: "r1", messages: [{ role: "user", content: "hi" }], config: { model: "demo" } };
    return this.after((session) => { this.stream = session.request(request); });
  }

  render(chunkId = this.stream.received) {
    return this.after((session, now) => session.rendered(this.stream, chunkId, now));
  }

  happened(type) { return this.events.filter((event) => event.type === type); }
}

const start = (extra = {}) => ({ type: "stream_start", request_id: "r1", stream_id: "st1", session_id: "s1", epoch: "e1", model: "demo", window: 8, ...extra });
const chunk = (chunk_id, content = `${chunk_id} `) => ({ type: "content_chunk", stream_id: "st1", chunk_id, content });
const batch = (first_chunk_id, last_chunk_id, content) => ({ type: "chunk_batch", stream_id: "st1", first_chunk_id, last_chunk_id, content });
const chunks = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => chunk(from + i));
const resumed = (last_chunk_id, extra = {}) => ({ type: "stream_resumed", stream_id: "st1", last_chunk_id, tail_chunk_id: last_chunk_id, epoch: "e1", state: "running", window: 8, ...extra });
const rewind = (chunk_id, to_chunk_id) => ({ type: "stream_rewind", stream_id: "st1", chunk_id, to_chunk_id, reason: "retry" });
const complete = (final_chunk_id, extra = {}) => ({ type: "stream_complete", stream_id: "st1", final_chunk_id, finish_reason: "stop", ...extra });
const resume = (last_chunk_id, epoch = "e1") => ({ type: "resume_stream", stream_id: "st1", last_chunk_id, epoch });
const ack = (chunk_id) => ({ type: "chunk_ack", stream_id: "st1", chunk_id });

function connected(options) {
  const talk = new Talk(options);
  talk.after((session, now) => session.connect(now));
  talk.arrive();
  return talk;
}

function streaming(options) {
  const talk = connected(options);
  talk.ask();
  talk.says(start());
  return talk;
}

describe("connection", () => {
  test("The first message is a hello that carries the remembered session.", () => {
    const talk = new Talk({ sessionId: "old" });
    talk.after((session, now) => session.connect(now));
    const [hello] = talk.after((session, now) => session.opened(now));
    assert.equal(hello.type, "hello");
    assert.equal(hello.session_id, "old");
  });

  test("A later hello carries the session the server gave.", () => {
    const talk = connected();
    talk.lose();
    assert.equal(talk.comeBack()[0].session_id, "s1");
  });

  test("A text that was cut in the middle of an emoji is sent with a replacement character.", () => {
    const talk = new Talk();
    talk.arrive();
    const ask = (message) => talk.after((session) => session.request({ requestId: "r1", message, config: {} }));
    assert.equal(ask("a\ud83d 😀 \ude00")[0].message, "a\ufffd 😀 \ufffd");
    assert.equal(ask("\\ud83d 😀")[0].message, "\\ud83d 😀");
  });

  test("A heartbeat is answered with its own timestamp.", () => {
    assert.deepEqual(connected().says({ type: "heartbeat", timestamp: 12.5 }), [{ type: "heartbeat_ack", timestamp: 12.5 }]);
  });

  test("The client sends heartbeats of its own at the interval.", () => {
    const talk = connected();
    assert.deepEqual(talk.wait(9_999), []);
    assert.deepEqual(talk.wait(1), [{ type: "heartbeat", timestamp: talk.now / 1000 }]);
  });

  test("Silence for the heartbeat timeout closes the socket and reconnects at once.", () => {
    const talk = connected();
    talk.wait(29_999);
    assert.equal(talk.session.state, "connected");
    talk.wait(1);
    assert.deepEqual(talk.happened("close"), [{ type: "close", code: 3008 }]);
    assert.equal(talk.session.timer(), talk.now);
    talk.wait(0);
    assert.equal(talk.happened("open").length, 2);
  });

  test("Any message is a sign of life.", () => {
    const talk = streaming();
    talk.wait(29_000);
    talk.says(chunk(1));
    talk.wait(29_000);
    assert.equal(talk.session.state, "connected");
  });

  test("A connection that never opens is given up.", () => {
    const talk = new Talk();
    talk.after((session, now) => session.connect(now));
    talk.wait(10_000);
    assert.equal(talk.session.state, "waiting");
  });

  test("The wait between tries is jittered, doubles and ends at thirty seconds.", () => {
    const talk = connected({ maxTries: 7, random: () => 1 });
    const waits = [];
    for (let i = 0; i < 7; i += 1) {
      talk.lose();
      waits.push(talk.session.timer() - talk.now);
      talk.wait(waits.at(-1));
    }
    assert.deepEqual(waits, [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    talk.lose();
    assert.equal(talk.session.state, "stopped");
  });

  test("Progress, not a mere connection, resets the back-off.", () => {
    const talk = streaming();
    talk.lose();
    talk.comeBack();
    talk.lose();
    assert.equal(talk.session.timer() - talk.now, 1000);
    talk.comeBack();
    talk.says(resumed(0), chunk(1));
    talk.lose();
    assert.equal(talk.session.timer() - talk.now, 500);
  });

  test("A connection that lasted ten seconds is progress too.", () => {
    const talk = connected();
    talk.lose();
    talk.comeBack();
    talk.wait(9_999);
    talk.lose();
    assert.equal(talk.session.timer() - talk.now, 1000);
    talk.comeBack();
    talk.wait(10_000);
    talk.lose();
    assert.equal(talk.session.timer() - talk.now, 500);
  });

  test("After going_away the server's delay wins over the back-off.", () => {
    const talk = connected();
    talk.says({ type: "going_away", deadline_ms: 5000, reconnect_after_ms: 1234 });
    talk.lose(1012);
    assert.equal(talk.session.timer() - talk.now, 1234);
  });

  test("An error's retry_after wins over the back-off.", () => {
    const talk = connected();
    talk.says({ type: "error", error_type: "capacity", message: "full", recoverable: true, retry_after: 7 });
    talk.lose(1013);
    assert.equal(talk.session.timer() - talk.now, 7000);
  });

  for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 3003, 4400, 4406, 4409]) {
    test(`Close code ${code} stops the client and ends its streams.`, () => {
      const talk = streaming();
      talk.lose(code);
      assert.equal(talk.session.state, "stopped");
      assert.equal(talk.stream.outcome.ok, false);
    });
  }

  for (const code of [1001, 1006, 1011, 1012, 1013, 3008, 4000, 4429]) {
    test(`Close code ${code} reconnects.`, () => {
      const talk = streaming();
      talk.lose(code);
      assert.ok(["waiting", "connecting"].includes(talk.session.state));
      assert.equal(talk.stream.outcome, null);
    });
  }

  test("After 3000 unfinished streams wait for a new token.", () => {
    const talk = streaming();
    talk.lose(3000);
    assert.equal(talk.session.state, "stopped");
    talk.after((session, now) => session.connect(now));
    assert.deepEqual(talk.arrive()[1], resume(0));
  });

  test("Unreadable and unknown messages change nothing.", () => {
    const talk = streaming();
    for (const text of ["", "{", "null", "7", "[]", '{"type":"novelty","stream_id":"st1"}']) {
      assert.deepEqual(talk.after((session, now) => session.receive(text, now)), []);
    }
    assert.equal(talk.session.state, "connected");
  });
});

describe("text", () => {
  test("Chunks in order become text.", () => {
    const talk = streaming();
    talk.says(chunk(1, "Hel"), chunk(2, "lo"));
    assert.equal(talk.stream.text, "Hello");
    assert.equal(talk.stream.received, 2);
  });

  test("A batch counts as all of its chunks.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), batch(2, 4, "bcd"), chunk(5, "e"));
    assert.equal(talk.stream.text, "abcde");
    assert.equal(talk.stream.received, 5);
  });

  test("Chunks of another kind are counted but are not text.", () => {
    const talk = streaming();
    talk.says({ ...chunk(1, "hm"), kind: "reasoning" }, chunk(2, "yes"));
    assert.equal(talk.stream.text, "yes");
    assert.deepEqual(talk.happened("change").slice(-2).map(({ kind }) => kind), ["reasoning", "text"]);
  });

  test("Duplicates are ignored.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), chunk(1, "a"), chunk(2, "b"), batch(1, 2, "ab"));
    assert.equal(talk.stream.text, "ab");
  });

  test("Two streams on one socket do not mix.", () => {
    const talk = streaming();
    const first = talk.stream;
    talk.after((session) => { talk.stream = session.request({ requestId: "r2", messages: [] }); });
    talk.says(start({ request_id: "r2", stream_id: "st2" }), chunk(1, "a"), { ...chunk(1, "z"), stream_id: "st2" }, chunk(2, "b"));
    assert.equal(first.text, "ab");
    assert.equal(talk.stream.text, "z");
  });

  test("A complete stream ends with its outcome.", () => {
    const talk = streaming();
    talk.says(chunk(1), complete(1, { usage: { output_tokens: 1 } }));
    assert.equal(talk.stream.outcome.ok, true);
    assert.equal(talk.stream.outcome.usage.output_tokens, 1);
    assert.equal(talk.happened("end").length, 1);
  });

  test("A status is passed on and changes neither text nor window.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), { type: "stream_status", stream_id: "st1", status: "retrying", message: "Trying again." }, chunk(2, "b"));
    assert.equal(talk.happened("status")[0].message.message, "Trying again.");
    assert.equal(talk.stream.text, "ab");
    assert.equal(talk.stream.inFlight, 2);
  });

  test("A failed stream ends and keeps its text.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), { type: "stream_error", stream_id: "st1", error_type: "provider_error", message: "no", recoverable: true, last_chunk_id: 1 });
    assert.equal(talk.stream.outcome.error_type, "provider_error");
    assert.equal(talk.stream.text, "a");
  });
});

describe("rewind", () => {
  test("A rewind withdraws the text after its target and takes a chunk id.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), chunk(2, "b"), chunk(3, "c"), rewind(4, 1), chunk(5, "B"));
    assert.equal(talk.stream.text, "aB");
    assert.equal(talk.stream.received, 5);
  });

  test("A rewind to zero withdraws everything.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), rewind(2, 0), chunk(3, "A"));
    assert.equal(talk.stream.text, "A");
  });

  test("A rewind past an earlier rewind is right too.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), chunk(2, "b"), rewind(3, 1), chunk(4, "c"), rewind(5, 3), chunk(6, "d"), rewind(7, 0), chunk(8, "z"));
    assert.equal(talk.stream.text, "z");
  });

  test("A rewind that came already is not done twice.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), rewind(2, 0), chunk(3, "A"), rewind(2, 0));
    assert.equal(talk.stream.text, "A");
  });

  test("A rewind into the middle of a batch fetches the part that stays, in a window that ends with it.", () => {
    const talk = streaming();
    talk.says(chunk(1, "a"), batch(2, 4, "bcd"));
    talk.render();
    assert.deepEqual(talk.says(rewind(5, 3)), [{ ...resume(1), window: 2 }]);
    assert.equal(talk.stream.text, "a");
    talk.says(resumed(1, { window: 2 }), batch(2, 3, "bc"));
    assert.deepEqual(talk.render(), [{ ...ack(3), window: 8 }]);
    talk.says(chunk(4, "d"), rewind(5, 3), chunk(6, "!"));
    assert.equal(talk.stream.text, "abc!");
    assert.equal(talk.stream.window, 8);
  });

  test("A connection lost in the middle of that ends the batch at the same place the next time.", () => {
    const talk = streaming();
    talk.says(batch(1, 4, "abcd"), rewind(5, 3));
    talk.lose();
    assert.deepEqual(talk.comeBack().slice(1), [{ ...resume(0), window: 3 }]);
  });
});

describe("acknowledgements", () => {
  test("Nothing is acknowledged before it is rendered.", () => {
    const talk = streaming();
    assert.deepEqual(talk.says(...chunks(1, 8)), []);
    assert.deepEqual(talk.wait(5_000), []);
    assert.equal(talk.stream.inFlight, 8);
  });

  test("An ack is cumulative and goes out 200 ms after the first chunk it covers.", () => {
    const talk = streaming();
    talk.says(chunk(1));
    assert.deepEqual(talk.render(), []);
    talk.wait(60);
    talk.says(chunk(2));
    assert.deepEqual(talk.render(), []);
    assert.deepEqual(talk.wait(139), []);
    assert.deepEqual(talk.wait(1), [ack(2)]);
    assert.equal(talk.stream.inFlight, 0);
  });

  test("Acks below half a window are at least 50 ms apart, whatever the speed of the reader.", () => {
    const talk = connected();
    const times = [];
    talk.ask();
    talk.says(start({ window: 1000 }));
    for (let id = 1; id <= 400; id += 1) {
      talk.says(chunk(id));
      [...talk.render(), ...talk.wait(5)].forEach(() => times.push(talk.now));
    }
    assert.ok(times.length > 8);
    assert.ok(times.every((time, i) => i === 0 || time - times[i - 1] >= 50));
  });

  test("Half a window is acknowledged at once.", () => {
    const talk = streaming();
    talk.says(...chunks(1, 6));
    assert.deepEqual(talk.render(3), []);
    assert.deepEqual(talk.render(4), [ack(4)]);
    assert.deepEqual(talk.wait(200), []);
  });

  test("A lower or repeated rendering says nothing new.", () => {
    const talk = streaming();
    talk.says(...chunks(1, 4));
    talk.render(4);
    assert.deepEqual([...talk.render(4), ...talk.render(2), ...talk.wait(200)], []);
  });

  test("What never came is never acknowledged.", () => {
    const talk = streaming();
    talk.says(...chunks(1, 2));
    talk.render(99);
    assert.deepEqual(talk.wait(200), [ack(2)]);
  });

  test("Of a complete stream the last chunks are acknowledged at once: there is no company to wait for.", () => {
    const talk = streaming();
    talk.says(chunk(1), complete(1));
    assert.deepEqual(talk.render(), [ack(1)]);
    assert.deepEqual(talk.wait(200), []);
    assert.equal(talk.session.streams.size, 0);
  });

  test("An ack that was due when the connection broke is not sent on the next one.", () => {
    const talk = streaming();
    talk.says(chunk(1));
    talk.render();
    talk.lose();
    assert.deepEqual(talk.comeBack().slice(1), [resume(1)]);
    assert.deepEqual(talk.wait(500), []);
  });
});

describe("gaps", () => {
  test("A gap resumes from the last chunk before it.", () => {
    const talk = streaming();
    talk.says(chunk(1));
    talk.render();
    assert.deepEqual(talk.says(chunk(3)), [resume(1)]);
    assert.equal(talk.stream.text, "1 ");
  });

  test("What was under way before the resume is passed over without another one.", () => {
    const talk = streaming();
    assert.deepEqual(talk.says(chunk(2), chunk(3), chunk(4)), [resume(0)]);
    talk.says(resumed(0), ...chunks(1, 4));
    assert.equal(talk.stream.text, "1 2 3 4 ");
  });

  test("A batch that overlaps what is here counts as a gap.", () => {
    const talk = streaming();
    talk.says(...chunks(1, 2));
    talk.render();
    assert.deepEqual(talk.says(batch(2, 4, "xyz")), [resume(2)]);
    assert.equal(talk.stream.text, "1 2 ");
  });

  test("A completion beyond the last chunk is a gap.", () => {
    const talk = streaming();
    assert.deepEqual(talk.says(complete(2)), [resume(0)]);
    talk.says(resumed(0), ...chunks(1, 2), complete(2));
    assert.equal(talk.stream.outcome.ok, true);
  });

  test("A hole that stays ends the stream instead of resuming for ever.", () => {
    const talk = streaming();
    for (let i = 0; i < 4; i += 1) talk.says(chunk(2), resumed(0));
    assert.equal(talk.stream.outcome.ok, false);
    assert.equal(talk.stream.resumes, 3);
  });
});

describe("resume", () => {
  test("After a loss an unfinished stream goes on where it stood.", () => {
    const talk = streaming();
    talk.says(...chunks(1, 3));
    talk.render();
    talk.lose();
    const sent = talk.comeBack();
    assert.deepEqual(sent.map(({ type }) => type), ["hello", "resume_stream"]);
    assert.deepEqual(sent[1], resume(3));
    talk.says(resumed(3), chunk(4), complete(4));
    assert.equal(talk.stream.text, "1 2 3 4 ");
    assert.equal(talk.stream.resumes, 1);
  });

  test("A resume acknowledges, so it asks for what the reader has not seen once more.", () => {
    const talk = streaming();
    talk.says(...chunks(1, 8));
    talk.render(5);
    talk.lose();
    assert.equal(talk.stream.text, "1 2 3 4 5 ");
    assert.deepEqual(talk.comeBack().slice(1), [resume(5)]);
    assert.equal(talk.stream.inFlight, 0);
    talk.says(resumed(5), batch(6, 8, "6 7 8 "), chunk(9));
    assert.equal(talk.stream.text, "1 2 3 4 5 6 7 8 9 ");
  });

  test("A resume names the newest epoch seen.", () => {
    const talk = streaming();
    talk.lose();
    talk.comeBack();
    talk.says(resumed(0, { epoch: "e2" }));
    talk.lose();
    assert.deepEqual(talk.comeBack()[1], resume(0, "e2"));
  });

  test("A finished stream is not resumed.", () => {
    const talk = streaming();
    talk.says(chunk(1), complete(1));
    talk.lose();
    assert.deepEqual(talk.comeBack().slice(1), []);
  });

  test("A refused resume ends the stream.", () => {
    const talk = streaming();
    talk.lose();
    talk.comeBack();
    talk.says({ type: "error", error_type: "log_trimmed", message: "gone", recoverable: false, stream_id: "st1" });
    assert.equal(talk.stream.outcome.error_type, "log_trimmed");
  });

  test("After a reload the session's active streams can be followed from the start.", () => {
    const talk = new Talk({ sessionId: "s1" });
    talk.after((session, now) => session.connect(now));
    talk.arrive({ active_streams: [{ stream_id: "st1", last_chunk_id: 3, state: "running" }] });
    assert.deepEqual(talk.happened("session")[0].active.map(({ stream_id }) => stream_id), ["st1"]);
    const sent = talk.after((session) => { talk.stream = session.follow("st1"); });
    assert.deepEqual(sent, [{ type: "resume_stream", stream_id: "st1", last_chunk_id: 0, snapshot: true }]);
    talk.says(resumed(0, { tail_chunk_id: 3 }), ...chunks(1, 3));
    assert.equal(talk.stream.text, "1 2 3 ");
  });

  test("A stream the client follows already is not offered again.", () => {
    const talk = streaming();
    talk.lose();
    talk.comeBack({ active_streams: [{ stream_id: "st1", last_chunk_id: 0, state: "running" }] });
    assert.deepEqual(talk.happened("session").at(-1).active, []);
  });
});

describe("history", () => {
  const answer = { id: "m2", role: "assistant", content: "1 2 ", created: 1, is_complete: false, stream_id: "st1", last_chunk_id: 2 };
  const history = { type: "history", session_id: "s1", title: "hi", messages: [{ id: "m1", role: "user", content: "hi", created: 0, is_complete: true }, answer] };

  test("The session's messages are asked for and come as an event.", () => {
    const talk = connected();
    assert.deepEqual(talk.after((session) => session.askHistory()), [{ type: "get_history" }]);
    talk.says(history);
    assert.deepEqual(talk.happened("history")[0].message, history);
  });

  test("Without a connection nothing is asked.", () => {
    const talk = new Talk();
    assert.deepEqual(talk.after((session) => session.askHistory()), []);
  });

  test("A page is asked for by what it ends before, and how long it may be.", () => {
    const talk = connected();
    assert.deepEqual(talk.after((session) => session.askHistory("s2", undefined, { before: "m9", limit: 5 })), [{ type: "get_history", session_id: "s2", before: "m9", limit: 5 }]);
  });

  test("What was thought before goes on, too, and is withdrawn with the rest.", () => {
    const talk = connected();
    const record = talk.session.follow("st", { lastChunkId: 7, text: "so", reasoning: "h" });
    const stream = new ChatStream(record, () => {});
    record.append(8, 8, "reasoning", "m");
    assert.deepEqual([stream.text, stream.reasoning, stream.lastChunkId], ["so", "hm", 8]);
    record.rewind(9, 0, 2);
    assert.deepEqual([stream.text, stream.reasoning], ["", ""]);
  });

  test("A running answer goes on behind what its history message holds.", () => {
    const talk = connected();
    const sent = talk.after((session) => { talk.stream = session.follow("st1", { lastChunkId: 2, text: answer.content }); });
    assert.deepEqual(sent, [{ type: "resume_stream", stream_id: "st1", last_chunk_id: 2, snapshot: true }]);
    assert.equal(talk.stream.text, "1 2 ");
    assert.equal(talk.stream.inFlight, 0);
    talk.says(resumed(2, { tail_chunk_id: 5 }), batch(3, 5, "3 4 5 "), chunk(6), complete(6));
    assert.equal(talk.stream.text, "1 2 3 4 5 6 ");
    assert.equal(talk.stream.outcome.ok, true);
    assert.deepEqual([...talk.render(), ...talk.wait(200)], [ack(6)]);
  });

  test("What is acknowledged of a followed answer begins behind its history.", () => {
    const talk = connected();
    talk.after((session) => { talk.stream = session.follow("st1", { lastChunkId: 2, text: "1 2 " }); });
    talk.says(resumed(2, { tail_chunk_id: 3 }), chunk(3));
    assert.equal(talk.stream.inFlight, 1);
    talk.render();
    talk.lose();
    assert.deepEqual(talk.comeBack()[1], { ...resume(3), snapshot: true });
  });

  test("Of what stands in its history, too, a rewind takes the end off, or all there is.", () => {
    const talk = connected();
    talk.after((session) => { talk.stream = session.follow("st1", { lastChunkId: 4, text: "1 2 😀4 " }); });
    talk.says(resumed(4), { type: "stream_rewind", stream_id: "st1", chunk_id: 5, to_chunk_id: 2, reason: "retry", withdrawn: 3 }, chunk(6));
    assert.equal(talk.stream.text, "1 2 6 ");
    talk.says({ type: "stream_rewind", stream_id: "st1", chunk_id: 7, to_chunk_id: 1, reason: "retry", withdrawn: 99 });
    assert.deepEqual([talk.stream.text, talk.stream.textLength], ["", 0]);
    assert.deepEqual([...talk.render(), ...talk.wait(200)], [ack(7)]);
  });

  test("An answer that has said nothing yet is followed from its start.", () => {
    const talk = connected();
    talk.after((session) => { talk.stream = session.follow("st1", { lastChunkId: 0, text: "" }); });
    talk.says(resumed(0), chunk(1));
    assert.equal(talk.stream.text, "1 ");
  });

  test("A change of the session by another tab is passed on.", () => {
    const talk = connected();
    const changed = { type: "session_changed", session_id: "s1", deleted: true };
    talk.says(changed);
    assert.deepEqual(talk.happened("session_changed")[0].message, changed);
  });
});

describe("requests", () => {
  test("A text alone continues the session's conversation.", () => {
    const talk = connected();
    const [request] = talk.after((session) => session.request({ requestId: "r1", message: "and then?" }));
    assert.deepEqual(request, { type: "chat_request", request_id: "r1", message: "and then?" });
  });

  test("A request made without a connection is sent once there is one.", () => {
    const talk = new Talk();
    assert.deepEqual(talk.ask(), []);
    talk.after((session, now) => session.connect(now));
    const [, request] = talk.arrive();
    assert.equal(request.type, "chat_request");
    assert.equal(request.request_id, "r1");
  });

  test("A request that was never answered is sent again with the same id.", () => {
    const talk = connected();
    const [first] = talk.ask();
    talk.lose();
    const [, second] = talk.comeBack();
    assert.deepEqual(second, first);
  });

  test("A request that was only queued is sent again too.", () => {
    const talk = connected();
    talk.ask();
    talk.says({ type: "stream_queued", request_id: "r1", stream_id: "st1", position: 2 });
    assert.equal(talk.stream.position, 2);
    talk.lose();
    assert.equal(talk.comeBack()[1].request_id, "r1");
  });

  test("A refused request ends its stream.", () => {
    const talk = connected();
    talk.ask();
    talk.says({ type: "error", error_type: "queue_full", message: "busy", recoverable: true, retry_after: 2, request_id: "r1" });
    assert.equal(talk.stream.outcome.retry_after, 2);
  });

  test("A cancel before the stream has a name waits for the name.", () => {
    const talk = connected();
    talk.ask();
    assert.deepEqual(talk.after((session) => session.cancel(talk.stream)), []);
    assert.deepEqual(talk.says(start()), [{ type: "cancel_stream", stream_id: "st1" }]);
  });

  test("A cancel during a loss is sent on the next connection.", () => {
    const talk = streaming();
    talk.lose();
    talk.after((session) => session.cancel(talk.stream));
    assert.deepEqual(talk.comeBack().slice(1), [resume(0), { type: "cancel_stream", stream_id: "st1" }]);
  });

  test("A request cancelled before it was sent never is.", () => {
    const talk = new Talk();
    talk.ask();
    talk.after((session) => session.cancel(talk.stream));
    assert.equal(talk.stream.outcome.finish_reason, "cancelled");
    talk.after((session, now) => session.connect(now));
    assert.deepEqual(talk.arrive().slice(1), []);
  });
});
