/** What every framework's `useChat` is made of, without a framework; and a proxy that cuts. */
import net from "node:net";
import { AbstractChat } from "ai";

class State {
  status = "ready";
  error = undefined;
  constructor(messages) { this.messages = messages; }
  pushMessage = (message) => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (at, message) => { this.messages = this.messages.with(at, this.snapshot(message)); };
  snapshot = (value) => structuredClone(value);
}

export class Chat extends AbstractChat {
  constructor({ messages = [], ...options }) {
    const finished = [], errors = [];
    super({ onFinish: (end) => finished.push(end), onError: (error) => errors.push(error), ...options, state: new State(messages) });
    Object.assign(this, { finished, errors });
  }
  get last() { return this.messages.at(-1); }
  get text() { return textOf(this.last); }
}

export function textOf(message) {
  return message?.role === "assistant" ? message.parts.filter((part) => part.type === "text").map((part) => part.text).join("") : "";
}

export async function until(condition, patience = 10_000) {
  const end = Date.now() + patience;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited in vain: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export const ALL = Array.from({ length: 200 }, (_, number) => `word${number} `).join("");

/** A TCP proxy; `cut` resets all its connections, and new ones are served as before, unless it `refuses` them. */
export async function proxyTo(port) {
  const proxy = { refuses: false };
  const sockets = new Set();
  const server = net.createServer((client) => {
    if (proxy.refuses) { client.resetAndDestroy(); return; }
    const upstream = net.connect(port, "127.0.0.1");
    for (const socket of [client, upstream]) { sockets.add(socket); socket.on("error", () => {}); socket.on("close", () => sockets.delete(socket)); }
    client.pipe(upstream).pipe(client);
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => client.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return Object.assign(proxy, {
    port: server.address().port,
    cut() { for (const socket of sockets) socket.resetAndDestroy(); },
    close() { this.cut(); server.close(); },
  });
}
