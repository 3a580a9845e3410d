/** Showing an answer at the pace of the screen, and acknowledging what was shown. */
export type ChatStream = import("./stream.js").ChatStream;
/**
 * Calls `draw` at most once per frame after changes, then acknowledges what was there when it was called. In a hidden
 * page, where frames stop and timers come rarely, it draws with the messages themselves, so that the answer flows on.
 * @param {ChatStream} stream
 * @param {(stream: ChatStream) => void} draw what it throws is not acknowledged
 * @returns {() => void} stops drawing
 */
export declare function onFrames(stream: ChatStream, draw: (stream: ChatStream) => void): () => void;
