/** The cases of tests/vectors, which the Python client runs as well. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { isFinal, reconnectDelay } from "../backoff.js";
import { Session } from "../session.js";

const FOLDER = new URL("../../../tests/vectors/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, FOLDER), "utf8"));
const DEFAULTS = read("defaults.json");
const { closes, delays } = read("closes.json");
const FILES = readdirSync(FOLDER).filter((name) => name.endsWith(".json") && !["defaults.json", "closes.json"].includes(name));

/** How the session's events are called in the cases; those that are not here are of no concern to them. */
const EVENTS = {
  connected: () => "connected", close: () => "dead", status: () => "status", error: (event, answers) => (answers ? "answer error" : "error"),
  tokenWanted: () => "token wanted", token_renewed: () => "token_renewed", going_away: () => "going_away", session_changed: () => "session_changed", stream_list: () => "stream_list", history: () => "answer history",
  queued: () => "queued", start: ({ name }) => `start ${name}`, resumed: ({ name }) => `resumed ${name}`, end: ({ name }) => `end ${name}`,
  chunkGap: ({ name, expected, received }) => `gap ${name} ${expected} ${received}`,
};

/** Plays one case against a session. */
class Player {
  now = 1_000_000;
  sent = []; events = []; active = []; answers = 0;
  streams = new Map();

  constructor({ session_id: sessionId, window, window_bytes, adaptive, renews: canRenew } = {}) {
    this.session = new Session({ sessionId, adaptive, canRenew, hello: { window, window_bytes, batch: true, client: "vectors" } });
  }

  play(step) {
    const [action] = Object.keys(step);
    this[`do_${action}`](step[action], step);
    this.session.tick(this.now);
    this.collect();
  }

  collect() {
    const { sends, events } = this.session.take();
    this.sent.push(...sends.map((text) => JSON.parse(text)));
    for (const event of events) {
      if (event.type === "session") this.active = event.active.map(({ stream_id }) => stream_id);
      const name = [...this.streams].find(([, stream]) => stream === event.stream)?.[0];
      const called = EVENTS[event.type]?.({ ...event, name }, this.answers > 0);
      // A refusal of a request for want of room is told as a status here; the protocol has a message of that name.
      if (called && !(called === "status" && event.message.status === "waiting")) this.events.push(called);
    }
    this.answers = 0;
  }

  do_connect() {
    this.session.connect(this.now);
    this.session.opened(this.now);
  }
  do_lose(code) { this.session.disconnected(code, this.now); }
  do_server(message) { this.do_raw(JSON.stringify({ ...DEFAULTS[message.type], ...message })); }
  do_raw(text) { this.session.receive(text, this.now); }
  do_wait(ms) { this.now += ms; }
  do_chat(name, { request_id: requestId, message, messages, config }) {
    this.streams.set(name, this.session.request({ requestId, message, messages, config }));
  }
  do_follow(name, { stream_id, last_chunk_id: lastChunkId, snapshot = false }) {
    this.streams.set(name, this.session.follow(stream_id, { lastChunkId, snapshot }));
  }
  /** Piece by piece, as a reader does who shows each before he looks at the next. */
  do_render(name, { up_to = Infinity }) {
    const stream = this.streams.get(name);
    const last = Math.min(up_to, stream.received);
    for (let id = stream.rendered + 1; id <= last; id += 1) if (stream.lastEnd(id) === id) this.session.rendered(stream, id, this.now);
  }
  do_cancel(name) { this.session.cancel(this.streams.get(name)); }
  do_history(sessionId, { before, limit }) { this.session.askHistory(sessionId ?? undefined, () => { this.answers += 1; }, { before, limit }); }
  do_token(token) { if (token) this.session.renew(token); else this.session.renewalFailed(this.now); }
  do_list() { this.session.list(); }

  do_sent(expected) { assert.deepEqual(this.sent.splice(0), expected); }
  do_events(expected) { assert.deepEqual(this.events.splice(0), expected); }
  do_active(expected) { assert.deepEqual(this.active, expected); }
  do_ignored(expected) { assert.equal(this.session.counts.ignored, expected); }
  do_timer(expected) { assert.equal(Math.round(this.session.timer() - this.now), expected); }
  do_text(expected) {
    for (const [name, text] of Object.entries(expected)) {
      const stream = this.streams.get(name);
      assert.equal(stream.rendered, stream.received, "the case is to render first");
      assert.equal(stream.text, text);
      assert.equal(stream.textFrom(0), text);
    }
  }
  do_kinds(expected) {
    for (const [name, kinds] of Object.entries(expected)) {
      for (const [kind, text] of Object.entries(kinds)) assert.equal(this.streams.get(name).textOf(kind), text);
    }
  }
  do_stand(expected) {
    for (const [name, fields] of Object.entries(expected)) {
      for (const [field, value] of Object.entries(fields)) assert.equal(this.streams.get(name)[field], value, field);
    }
  }
  do_outcome(expected) {
    for (const [name, fields] of Object.entries(expected)) {
      for (const [field, value] of Object.entries(fields)) assert.deepEqual(this.streams.get(name).outcome?.[field], value, field);
    }
  }
}

for (const file of FILES) {
  describe(file, () => {
    for (const { name, options, steps } of read(file)) {
      test(name, () => {
        const player = new Player(options);
        for (const step of steps) player.play(step);
        assert.deepEqual([player.sent, player.events], [[], []], "more was said or happened than the case tells");
      });
    }
  });
}

describe("closes", () => {
  for (const { code, then } of closes) {
    test(`After ${code}: ${then}.`, () => {
      const session = new Session({ canRenew: true });
      session.connect(0);
      session.disconnected(code, 0);
      assert.equal(session.state, then === "stop" ? "stopped" : "waiting");
      assert.equal(isFinal(code), then === "stop");
    });
  }
  for (const { name, attempt, jitter, code, told_ms: toldMs, delay_ms } of delays) {
    test(name, () => assert.equal(reconnectDelay(attempt, jitter, { code, toldMs }), delay_ms));
  }
});

test("There are cases enough to speak of.", () => {
  assert.ok(FILES.flatMap((file) => read(file)).length >= 90);
});
