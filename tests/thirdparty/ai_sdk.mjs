// The AI SDK's provider for OpenAI-compatible servers, against a running server: node ai_sdk.mjs URL
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "wsstream", baseURL: `${process.argv[2]}v1`, includeUsage: true });
const model = provider("demo:rate=0,tokens=60");

const whole = await generateText({ model, prompt: "hi", maxRetries: 0 });
assert.equal(whole.text.trim().split(/\s+/).length, 60);
assert.equal(whole.finishReason, "stop");
assert.equal(whole.usage.outputTokens, 60);

const stream = streamText({ model, prompt: "hi", maxRetries: 0 });
let text = "";
let pieces = 0;
for await (const piece of stream.textStream) { text += piece; pieces += 1; }
assert.equal(text, whole.text);
assert.ok(pieces > 1);
assert.equal(await stream.finishReason, "stop");
assert.equal((await stream.usage).outputTokens, 60);

const failing = streamText({ model: provider("no such model"), prompt: "hi", maxRetries: 0, onError() {} });
let failure = null;
for await (const part of failing.fullStream) if (part.type === "error") failure = part.error;
assert.equal(failure?.statusCode, 502);
console.log("ok: generateText, streamText, usage, errors");
