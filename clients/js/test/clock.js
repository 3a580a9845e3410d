/** A clock that goes only where the test says, in place of the browser's timers. */
export class Clock {
  now = 1_000_000;
  #timers = new Map(); #ids = 0;

  install() {
    Object.defineProperty(globalThis, "performance", { value: { now: () => this.now }, configurable: true });
    globalThis.setTimeout = (call, ms = 0) => {
      this.#ids += 1;
      this.#timers.set(this.#ids, { at: this.now + ms, call });
      return this.#ids;
    };
    globalThis.clearTimeout = (id) => { this.#timers.delete(id); };
    return this;
  }

  get pending() { return this.#timers.size; }

  /** Lets time pass, and everything that is due in it happen in its order. */
  async pass(ms) {
    const end = this.now + ms;
    await settled();
    for (;;) {
      const [id, timer] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!timer || timer.at > end) break;
      this.#timers.delete(id);
      this.now = Math.max(this.now, timer.at);
      timer.call();
      await settled();
    }
    this.now = end;
  }
}

/** Everything that waits for a promise has had its turn. */
export const settled = () => new Promise((resolve) => { setImmediate(resolve); });

/** A WebSocket whose other end is the test. */
export class Socket {
  static all = [];
  static get last() { return Socket.all.at(-1); }
  sent = []; closedWith = undefined;
  constructor(url, protocol) {
    Object.assign(this, { url, protocol });
    Socket.all.push(this);
  }
  send(text) { this.sent.push(JSON.parse(text)); }
  close(code) { this.closedWith = code ?? 1005; }
  said(type) { return this.sent.filter((message) => message.type === type); }
  says(...messages) { for (const message of messages) this.onmessage({ data: JSON.stringify(message) }); }
  greet(extra = {}) {
    this.onopen();
    this.says({ type: "connection_established", connection_id: "c1", session_id: "s1", heartbeat_interval: 10, heartbeat_timeout: 25, window: 8, active_streams: [], ...extra });
    return this;
  }
  start(stream_id = "st1") {
    const { request_id } = this.said("chat_request").at(-1);
    this.says({ type: "stream_start", request_id, stream_id, session_id: "s1", epoch: "e1", model: "demo", window: 8 });
    return this;
  }
  chunks(from, to, extra = {}) {
    for (let id = from; id <= to; id += 1) this.says({ type: "content_chunk", stream_id: "st1", chunk_id: id, content: `${id} `, ...extra });
  }
  complete(final_chunk_id, extra = {}) { this.says({ type: "stream_complete", stream_id: "st1", final_chunk_id, finish_reason: "stop", ...extra }); }
}

/** A page: its document can be hidden and its window told what happens to the network. */
export function installPage() {
  const page = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden: false });
  const frames = new Map();
  let ids = 0;
  Object.assign(globalThis, {
    document, WebSocket: Socket,
    addEventListener: page.addEventListener.bind(page), removeEventListener: page.removeEventListener.bind(page),
    requestAnimationFrame: (draw) => { ids += 1; frames.set(ids, draw); return ids; },
    cancelAnimationFrame: (id) => frames.delete(id),
  });
  const navigator = { onLine: true };
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  return {
    document, navigator,
    tell: (type) => page.dispatchEvent(new Event(type)),
    hide: (hidden) => { document.hidden = hidden; document.dispatchEvent(new Event("visibilitychange")); },
    frame: () => { const due = [...frames.values()]; frames.clear(); for (const draw of due) draw(performance.now()); return due.length; },
  };
}
