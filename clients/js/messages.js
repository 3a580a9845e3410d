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
/** @param {unknown} value */
const isInfos = (value) => Array.isArray(value)
  && value.every((info) => isText(info?.stream_id) && isId(info.last_chunk_id) && isText(info.state));

const text = perhaps(isText);
const id = perhaps(isId);
const number = perhaps(isNumber);
const flag = perhaps(isFlag);
const failure = { error_type: isText, message: isText, retry_after: number, recoverable: flag };

/** @type {Record<string, Record<string, (value: unknown) => boolean>>} */
const FIELDS = {
  connection_established: {
    session_id: isText, connection_id: text, heartbeat_interval: number, heartbeat_timeout: number, window: id, window_bytes: id,
    limits: perhaps((/** @type {any} */ limits) => id(limits.max_window)), expires_in: number, active_streams: perhaps(isInfos),
  },
  token_renewed: { expires_in: number },
  stream_queued: { ...named, request_id: isText, position: isId },
  stream_start: { ...named, request_id: isText, epoch: text, window: id },
  content_chunk: { ...named, chunk_id: isId, content: isText, kind: text },
  chunk_batch: { ...named, first_chunk_id: isId, last_chunk_id: isId, content: isText, kind: text },
  stream_rewind: { ...named, chunk_id: isId, to_chunk_id: isId, withdrawn: id },
  stream_status: { ...named, status: isText },
  stream_resumed: { ...named, last_chunk_id: isId, epoch: text, window: id },
  stream_complete: { ...named, final_chunk_id: isId, finish_reason: isText },
  stream_error: { ...named, ...failure, last_chunk_id: isId },
  stream_list: { streams: isInfos },
  history: { session_id: isText, title: text, messages: Array.isArray },
  session_changed: { session_id: isText, title: text, deleted: flag, stream_id: text },
  going_away: { reconnect_after_ms: isId },
  error: { ...failure, request_id: text, stream_id: text },
  heartbeat: {},
  heartbeat_ack: {},
};
/** What must be right for the client to go on, by type. A type that is not here is unknown. */
const SHAPES = new Map(Object.entries(FIELDS));

/**
 * The message in `text`, and whether it can be acted on. One that is malformed is null, and not known.
 * @param {string} text
 * @returns {{message: any, known: boolean}}
 */
export function decode(text) {
  let message = null;
  try { message = JSON.parse(text); } catch { /* It is told as one that is not known. */ }
  const shape = SHAPES.get(message?.type);
  // A lone half of a character has no UTF-8, so no server sends one; to join it to something would make text up.
  const known = !!shape && !/[\ud800-\udfff]/u.test(message.content) && Object.keys(shape).every((field) => shape[field](message[field]));
  return { message: known || (!shape && isText(message?.type)) ? message : null, known };
}

const encoder = new TextEncoder();
/** @param {string} text bytes it takes in UTF-8 */
export const utf8Length = (text) => encoder.encode(text).length;
/**
 * A message as JSON. Half of a surrogate pair, as a text has it that was cut in the middle of an emoji, is no text for the
 * server, which would close the connection: it becomes a replacement character.
 *
 * @param {object} message
 */
export function encode(message) {
  // The backslash of an escape cannot be taken for that of the next one, as each escape is read whole.
  return JSON.stringify(message).replace(/\\(ud[89a-f]..|.)/g, (escape, what) => what.length > 1 ? "\ufffd" : escape);
}
