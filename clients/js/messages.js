/** Reading the server's messages: what does not have the documented shape never gets further than here. */

/** @typedef {{type: string, [field: string]: any}} Message */

/** @param {unknown} value */
const isText = (value) => typeof value === "string";
/** @param {unknown} value a number that JSON readers keep exact */
const isId = (value) => Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0;
/** @param {unknown} value */
const isNumber = (value) => typeof value === "number";
/** @param {unknown} value */
const isFlag = (value) => typeof value === "boolean";
/** @param {(value: unknown) => boolean} check */
const perhaps = (check) => (/** @type {unknown} */ value) => value === undefined || value === null || check(value);

const named = { stream_id: isText };
const kind = perhaps(isText);
/** @param {unknown} value */
const isInfos = (value) => Array.isArray(value)
  && value.every((info) => isText(info?.stream_id) && isId(info.last_chunk_id) && isText(info.state));

/** The fields that must be right, by type. A type that is not here is unknown. @type {Map<string, Record<string, (value: unknown) => boolean>>} */
const SHAPES = new Map(Object.entries({
  connection_established: {
    connection_id: isText, session_id: isText, heartbeat_interval: isNumber, heartbeat_timeout: isNumber, window: isId, active_streams: isInfos,
  },
  stream_queued: { ...named, request_id: isText, position: isId },
  stream_start: { ...named, request_id: isText, session_id: isText, epoch: isText, window: isId },
  content_chunk: { ...named, chunk_id: isId, content: isText, kind },
  chunk_batch: { ...named, first_chunk_id: isId, last_chunk_id: isId, content: isText, kind },
  stream_rewind: { ...named, chunk_id: isId, to_chunk_id: isId, reason: isText },
  stream_status: { ...named, status: isText, message: isText },
  stream_resumed: { ...named, last_chunk_id: isId, tail_chunk_id: isId, epoch: isText, window: isId },
  stream_complete: { ...named, final_chunk_id: isId, finish_reason: isText },
  stream_error: { ...named, error_type: isText, message: isText, recoverable: isFlag, last_chunk_id: isId, retry_after: perhaps(isNumber) },
  stream_list: { streams: isInfos },
  history: { session_id: isText, messages: Array.isArray, title: perhaps(isText) },
  session_changed: { session_id: isText, title: perhaps(isText), deleted: perhaps(isFlag) },
  going_away: { deadline_ms: isId, reconnect_after_ms: isId },
  error: { error_type: isText, message: isText, recoverable: isFlag, retry_after: perhaps(isNumber), request_id: perhaps(isText), stream_id: perhaps(isText) },
  heartbeat: {},
  heartbeat_ack: {},
}));

/**
 * The message in `text`; null where it is malformed. A message of an unknown type has `unknown` set.
 * @param {string} text
 * @returns {{message: Message, unknown: boolean}|null}
 */
export function decode(text) {
  let message;
  try { message = JSON.parse(text); } catch { return null; }
  if (typeof message !== "object" || message === null || !isText(message.type)) return null;
  const shape = SHAPES.get(message.type);
  if (!shape) return { message, unknown: true };
  for (const field in shape) if (!shape[field](message[field])) return null;
  // A lone half of a character has no UTF-8, so no server sends one; to join it to something would make text up.
  return message.content !== undefined && !isWhole(message.content) ? null : { message, unknown: false };
}

/** @param {string} text whether every surrogate has its other half */
const isWhole = (text) => !/[\ud800-\udfff]/u.test(text);

/** @param {string} text bytes it takes in UTF-8 */
export function utf8Length(text) {
  let length = text.length;
  for (let i = 0; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    if (code > 0x7f) length += code > 0x7ff && (code < 0xd800 || code > 0xdfff) ? 2 : 1;
  }
  return length;
}
