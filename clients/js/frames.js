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
  const page = globalThis.document;
  let frame = 0;
  /** @type {any} a number in browsers, an object in Node */
  let timer = 0;
  let drawnAt = -Infinity;
  const settle = () => {
    if (frame) cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = timer = 0;
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
    const hidden = page?.hidden;
    if (hidden && (performance.now() - drawnAt >= HIDDEN_MS || inFlight * 2 >= window)) return show();
    if (!hidden && "requestAnimationFrame" in globalThis) frame ||= requestAnimationFrame(show);
    timer ||= setTimeout(show, hidden ? HIDDEN_MS : LATEST_MS);
  };
  const turned = () => { if (page?.hidden && (frame || timer)) show(); };
  const stop = stream.on("change", later);
  page?.addEventListener("visibilitychange", turned);
  later();
  return () => {
    stop();
    settle();
    page?.removeEventListener("visibilitychange", turned);
  };
}
