// The Durable Streams client, reading an answer: node durable_client.mjs URL
import assert from "node:assert/strict";
import { stream } from "@durable-streams/client";

const base = process.argv[2];
const headers = { "Content-Type": "application/json" };

for (const live of [false, "long-poll", "sse"]) {
  const body = JSON.stringify({ message: "hi", model: `demo:rate=${live ? 100 : 0},tokens=60`, session_id: `ds-${live}` });
  const asked = fetch(`${base}api/chat`, { method: "POST", headers, body });
  if (!live) await asked;
  let found = [];
  while (!found.length) found = (await (await fetch(`${base}api/sessions/ds-${live}/streams`)).json()).streams;
  const response = await stream({ url: `${base}durable/${found[0].stream_id}`, offset: "-1", live });
  const messages = [];
  for await (const message of response.jsonStream()) messages.push(message);
  const { content } = await (await asked).json();
  assert.deepEqual(messages.map((message) => message.id).slice(0, -1), Array.from({ length: 60 }, (_, n) => n + 1));
  assert.equal(messages.filter(({ type }) => type === "token").map((message) => message.content).join(""), content);
  assert.equal(messages.at(-1).type, "done");
}
console.log("ok: catch-up, long-poll, sse");
