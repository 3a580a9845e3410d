/** Showing an answer at the pace of the screen, and acknowledging what was shown. */

/** @typedef {import("./stream.js").ChatStream} ChatStream */

/** A window that is covered or drawn slowly may get no animation frame; acks must not wait for one. */
const LATEST_MS = 150;
/** A hidden page gets no frames. */
const HIDDEN_MS = 100;

/**
 * Calls `draw` at most once per frame after changes, then acknowledges what was there when it was called. In a hidden
 * page, where frames stop and timers come rarely, it draws with the messages themselves, so that the answer flows on.
 * @param {ChatStream} stream
 * @param {(stream: ChatStream) => void} draw what it throws is not acknowledged
 * @returns {() => void} stops drawing
 */
export function onFrames(stream, draw) {
  let frame = 0;
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let timer;
  let drawnAt = -Infinity;
  const settle = () => {
    if (frame) cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = 0;
    timer = undefined;
  };
  const show = () => {
    settle();
    drawnAt = performance.now();
    const upTo = stream.lastChunkId;
    draw(stream);
    stream.rendered(upTo);
  };
  const later = () => {
    const { inFlight, window } = stream.info;
    const hidden = globalThis.document?.hidden;
    if (hidden && (performance.now() - drawnAt >= HIDDEN_MS || inFlight * 2 >= window)) return show();
    if (!hidden && "requestAnimationFrame" in globalThis) frame ||= requestAnimationFrame(show);
    timer ??= setTimeout(show, hidden ? HIDDEN_MS : LATEST_MS);
  };
  const turned = () => { if (globalThis.document?.hidden && (frame || timer)) show(); };
  const stop = stream.on("change", later);
  const page = globalThis.document;
  page?.addEventListener("visibilitychange", turned);
  later();
  return () => {
    stop();
    settle();
    page?.removeEventListener("visibilitychange", turned);
  };
}
