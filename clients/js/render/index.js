/**
 * Streaming markdown for answers, safe and cheap.
 *
 *   Renderer     shows one growing text in one element: write, rewind, end, paint
 *   Painter      calls paint once per frame for whatever has changed
 *   Highlighter  colours finished code near the viewport
 *
 * The document gets elements and text nodes, never HTML: pages can forbid the rest with
 * `require-trusted-types-for 'script'; trusted-types 'none'`.
 */
export { Renderer } from "./renderer.js";
export { Painter } from "./painter.js";
export { Highlighter } from "./highlight.js";
export { safeLink } from "./tree.js";
