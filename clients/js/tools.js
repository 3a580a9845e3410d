/** Tool calls, for those who show them. */

/**
 * The tool calls of an answer so far: docs/protocol.md, "Tool calls". Of each, `arguments` is JSON once all of it has come.
 * @param {import("./stream.js").ChatStream} stream
 * @returns {{index: number, id: string, name: string, arguments?: string}[]}
 */
export function toolCalls(stream) {
  const made = new Map();
  for (const line of stream.info.textOf("tool_call").split("\n")) {
    try {
      const part = JSON.parse(line);
      const known = made.get(part.index);
      if (known) known.arguments = (known.arguments ?? "") + (part.arguments ?? "");
      else if (part instanceof Object) made.set(part.index ?? part, part);
    } catch { /* It has not come whole. */ }
  }
  return [...made.values()];
}
