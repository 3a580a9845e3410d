/** What tools gave, as a history tells it: messages of their own, somewhere behind the calls. */

/** @param {unknown} content a text, or parts of one */
export function plain(content) {
  return typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");
}

/**
 * Gives each call the result that follows it, as `result`. Ids need not be unique in a session: it is the nearest one.
 * @param {object[]} messages a page of a history, the oldest first
 * @param {Map<string, string>} [waiting] results whose calls are on an earlier page; it is read next
 */
export function joinResults(messages, waiting = new Map()) {
  for (const { role, content, tool_call_id: id, tool_calls: calls = [] } of [...messages].reverse()) {
    if (role === "tool") waiting.set(id, plain(content));
    for (const call of calls) {
      if (waiting.has(call.id)) call.result = waiting.get(call.id);
      waiting.delete(call.id);
    }
  }
}
