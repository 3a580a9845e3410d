import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { connectionWords, failure, statusWords, summary } from "../../chat/words.js";

describe("words of the page", () => {
  test("A status says what is waited for, and how long.", () => {
    assert.equal(statusWords({ status: "rate_limited", message: "x", retry_after: 4.2 }), "Rate limited, trying again in 5 s");
    assert.equal(statusWords({ status: "retrying", message: "x", retry_after: 2 }), "Trying again in 2 s");
    assert.equal(statusWords({ status: "waiting", message: "The queue is long." }), "The queue is long.");
    assert.equal(statusWords({ status: "something_new" }), "something_new");
  });

  test("The connection is a sentence in every state.", () => {
    const client = (state, fields = {}) => ({ state, retryInMs: 2400, session: { closeCode: 0 }, ...fields });
    assert.equal(connectionWords(client("connected"), false), "Connected");
    assert.equal(connectionWords(client("waiting"), false), "Reconnecting in 3 s");
    assert.equal(connectionWords(client("waiting"), true), "Offline on purpose");
    assert.equal(connectionWords(client("stopped", { session: { closeCode: 3000 } }), false), "Signed out");
    assert.equal(connectionWords(client("stopped"), false), "Disconnected");
  });

  test("An end tells what is known of it, and nothing else.", () => {
    assert.equal(summary({ finish_reason: "stop" }), "");
    const all = { finish_reason: "cancelled", usage: { output_tokens: 1234 }, ttft_ms: 3.14, tokens_per_second: 40.4, elapsed_seconds: 2 };
    assert.equal(summary(all), "Stopped · 1,234 tokens · first after 3.1 ms · 40 tokens/s · 2.0 s");
    assert.equal(failure({ message: "No.", retry_after: 0.5 }), "No. Try again in 1 s.");
    assert.equal(failure({}), "The answer could not be given.");
  });
});
