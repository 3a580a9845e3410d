// The smallest good gateway on npm ws: one upstream call per request, one WebSocket message per token.
// No log, no acknowledgements, no resume. Usage:
//   node server.mjs --port 8080 --upstream http://127.0.0.1:9000/v1 [--transport http|fetch]
// Both ways to call the upstream are here because the cheaper one is the fair yardstick.

import http from 'node:http';
import { parseArgs } from 'node:util';
import { WebSocketServer } from 'ws';

const { values: options } = parseArgs({
  options: {
    port: { type: 'string' },
    upstream: { type: 'string' },
    transport: { type: 'string', default: 'http' },
  },
});

const endpoint = new URL(`${options.upstream}/chat/completions`);
const agent = new http.Agent({ keepAlive: true, noDelay: true });
const headers = {
  'content-type': 'application/json',
  accept: 'text/event-stream',
  authorization: `Bearer ${process.env.OPENAI_API_KEY ?? 'x'}`,
};

/** Returns a function that takes text as it comes and calls onData with the data of each server-sent event. */
function sseParser(onData) {
  let rest = '';
  return (text) => {
    rest = rest === '' ? text : rest + text;
    let start = 0;
    for (let end = rest.indexOf('\n'); end !== -1; end = rest.indexOf('\n', start)) {
      if (rest.startsWith('data: ', start)) onData(rest.slice(start + 6, end));
      start = end + 1;
    }
    rest = start === rest.length ? '' : rest.slice(start);
  };
}

function callWithHttp(body, signal, onText) {
  return new Promise((resolve, reject) => {
    const request = http.request(endpoint, { method: 'POST', agent, headers, signal }, (response) => {
      if (response.statusCode !== 200) {
        response.resume();
        reject(new Error(`upstream answered ${response.statusCode}`));
        return;
      }
      response.setEncoding('utf8');
      response.on('data', onText);
      response.on('end', resolve);
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function callWithFetch(body, signal, onText) {
  const response = await fetch(endpoint, { method: 'POST', headers, body, signal });
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`upstream answered ${response.status}`);
  }
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    onText(decoder.decode(part.value, { stream: true }));
  }
}

const calls = { http: callWithHttp, fetch: callWithFetch };
const call = calls[options.transport];
if (!call) throw new Error(`unknown transport ${options.transport}`);

async function answer(socket, request, signal) {
  const body = JSON.stringify({ model: request.model, messages: request.messages, stream: true });
  const onData = (data) => {
    if (data === '[DONE]') return;
    const content = JSON.parse(data).choices[0]?.delta?.content;
    if (content) socket.send(JSON.stringify({ type: 'token', content }));
  };
  await call(body, signal, sseParser(onData));
  socket.send(JSON.stringify({ type: 'done' }));
}

function onConnection(socket) {
  const abort = new AbortController();
  socket.on('close', () => abort.abort());
  socket.on('error', () => socket.terminate());
  socket.on('message', async (data) => {
    try {
      await answer(socket, JSON.parse(data), abort.signal);
    } catch (error) {
      if (socket.readyState === socket.OPEN) {
        socket.send(JSON.stringify({ type: 'error', message: String(error.message) }));
      }
    }
  });
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(options.port),
  backlog: 4096,
  perMessageDeflate: false,
});
server.on('connection', onConnection);
server.on('listening', () => console.log(`ws_node listening on 127.0.0.1:${server.address().port}`));
process.on('SIGTERM', () => process.exit(0));
