/** What things are called when a person reads them. */

const CLOSED = new Map([
  [1008, "Refused by the server"], [3000, "Signed out"], [3003, "Not allowed"], [4400, "Protocol error"],
  [4406, "Server and page speak different versions: reload"], [4409, "Taken over by another tab"],
]);
/** Closes whose reason is for people; those of others are a browser's words, or the same as the code's. */
const TELLING = new Set([1008, 1013, 4429]);
const FINISHED = new Map([
  ["cancelled", "Stopped"], ["length", "Cut at the length limit"], ["content_filter", "Withheld by the provider"],
  ["tool_calls", "Waits for its tools"],
]);
const number = new Intl.NumberFormat("en");

/** @param {{state: string, retryInMs: number, session: {closeCode: number}}} client */
export function connectionWords(client, offline) {
  if (offline) return "Offline on purpose";
  if (client.state === "waiting") return `Reconnecting in ${Math.ceil(client.retryInMs / 1000)} s`;
  if (client.state === "stopped") return CLOSED.get(client.session.closeCode) ?? "Disconnected";
  return { idle: "Not connected", connecting: "Connecting", connected: "Connected" }[client.state] ?? client.state;
}

/** @returns {string} why there is no connection, where the server has said it */
export function trouble({ state, session: { closeCode, closeReason } }) {
  if (state === "connected" || state === "idle" || !TELLING.has(closeCode) || !closeReason) return "";
  return `${closeReason[0].toUpperCase()}${closeReason.slice(1)}.`;
}

export function count(value) { return number.format(value); }
export function milliseconds(value) { return value >= 10 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`; }

/** @returns {string} what is to be said under an answer that has ended well */
export function summary({ finish_reason, usage, ttft_ms, tokens_per_second, elapsed_seconds }) {
  const parts = [];
  if (FINISHED.has(finish_reason)) parts.push(FINISHED.get(finish_reason));
  if (usage?.output_tokens) parts.push(`${count(usage.output_tokens)} tokens`);
  if (typeof ttft_ms === "number") parts.push(`first after ${milliseconds(ttft_ms)}`);
  if (tokens_per_second) parts.push(`${count(Math.round(tokens_per_second))} tokens/s`);
  if (elapsed_seconds >= .05) parts.push(`${elapsed_seconds.toFixed(1)} s`);
  return parts.join(" · ");
}

export function failure({ message, retry_after }) {
  const words = message ?? "The answer could not be given.";
  return retry_after ? `${words} Try again in ${Math.ceil(retry_after)} s.` : words;
}

/** @param {{status: string, message?: string, retry_after?: number}} status */
export function statusWords({ status, message, retry_after }) {
  const words = { rate_limited: "Rate limited", retrying: "Trying again", waiting: "Waiting", failover: "Asking another provider" }[status] ?? message ?? status;
  if (status === "rate_limited" && retry_after) return `${words}, trying again in ${Math.ceil(retry_after)} s`;
  return retry_after ? `${words} in ${Math.ceil(retry_after)} s` : message || words;
}
