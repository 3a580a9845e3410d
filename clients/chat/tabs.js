/** What tabs of one browser tell each other. */
const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("wsstream") : null;
const listeners = new Map();

channel?.addEventListener("message", ({ data }) => {
  for (const listener of listeners.get(data?.type) ?? []) listener(data);
});

export function publish(type, fields = {}) { channel?.postMessage({ ...fields, type }); }

export function subscribe(type, listener) {
  if (!listeners.has(type)) listeners.set(type, []);
  listeners.get(type).push(listener);
}
