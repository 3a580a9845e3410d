import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { toChatMessages, UiParts } from "../aisdk.js";

const { answers, conversations } = JSON.parse(readFileSync(new URL("../../../tests/data/aisdk.json", import.meta.url), "utf8"));
const plain = (value) => JSON.parse(JSON.stringify(value));

describe("the translation for the AI SDK", () => {
  for (const { name, chunks, finish_reason, error, told } of answers) {
    test(`An answer becomes the same parts as at the server: ${name}.`, () => {
      const parts = new UiParts();
      const found = chunks.flatMap(([kind, content]) => parts.take(kind, content));
      const outcome = error ? { ok: false, message: error } : { ok: true, finish_reason };
      assert.deepEqual(plain([...found, ...parts.end(outcome)]).map(({ messageMetadata, ...rest }) => rest), told);
    });
  }

  for (const { name, messages, told } of conversations) {
    test(`A conversation is told a provider as by the server: ${name}.`, () => {
      assert.deepEqual(plain(toChatMessages(messages)), told);
    });
  }

  test("What was withdrawn leaves the step, and what still stands is told again.", () => {
    const parts = new UiParts();
    parts.take("text", "one two three");
    assert.deepEqual(parts.reset("hm", "one "), [
      { type: "reset-step" },
      { type: "reasoning-start", id: "2" },
      { type: "reasoning-delta", id: "2", delta: "hm" },
      { type: "reasoning-end", id: "2" },
      { type: "text-start", id: "3" },
      { type: "text-delta", id: "3", delta: "one " },
    ]);
  });
});
