// The browser client over HTTP against a running server: node browser_client.mjs URL
import assert from "node:assert/strict";
import { StreamClient } from "../../clients/js/index.js";
import { sse } from "../../clients/js/sse_transport.js";

const client = new StreamClient(`${process.argv[2].replace("http", "ws")}ws`, { transports: [sse], window: 5 });
client.connect();

const chat = async (tokens, during = () => {}) => {
  const answer = client.chat("hi", { model: `demo:rate=200,tokens=${tokens},seed=1` });
  let text = "";
  let pieces = 0;
  for await (const piece of answer) {
    text += typeof piece === "string" ? piece : piece.content;
    during((pieces += 1));
  }
  await answer.done;
  return { text, answer };
};

const { text } = await chat(60);
assert.equal(text.trim().split(/\s+/).length, 60);
const broken = await chat(60, (pieces) => { if (pieces === 2) client.drop(); });
assert.equal(broken.text, text);
assert.ok(client.stats().reconnects >= 1);
client.close();
console.log("ok");
