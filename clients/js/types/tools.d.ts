/** Tool calls, for those who show them. */
/**
 * The tool calls of an answer so far: docs/protocol.md, "Tool calls". Of each, `arguments` is JSON once all of it has come.
 * @param {import("./stream.js").ChatStream} stream
 * @returns {{index: number, id: string, name: string, arguments?: string}[]}
 */
export declare function toolCalls(stream: import("./stream.js").ChatStream): {
    index: number;
    id: string;
    name: string;
    arguments?: string;
}[];
