/**
 * Closes softly what the end of a running answer has opened: `**bo` shows as bold before its other stars are there, and
 * `[text](https://exa` as its text. Only what is shown changes; the text that arrives is never touched.
 */
const DELIMITER = /\\[\s\S]|(`+)|(\*{1,3}|_{1,3}|~~)/g;
const HALF_LINK = /(!?)\[([^\[\]\n]{0,300})\]\([^()\s]*(?:\s[^()\n]*)?$/;
const HALF_IMAGE = /!(?:\[[^\[\]\n]{0,300})?$/;
const WORD = /[\p{L}\p{N}]/u;

/** @param {string} text inline markdown at the very end of what has come so far */
export function soften(text) {
  const whole = text.replace(HALF_LINK, (_, image, label) => image ? "" : label).replace(HALF_IMAGE, "");
  const { open, code } = openAt(whole);
  return closeEmphasis(code ? closeCode(whole, code) : whole, open);
}

/** What is open at the end: emphasis, outermost first, or a code span. */
function openAt(text) {
  const open = [];
  let code = null;
  for (const { 1: ticks, 2: mark, index } of text.matchAll(DELIMITER)) {
    if (code) {
      if (ticks?.length === code.run.length) code = null;
    } else if (ticks) code = { run: ticks, index };
    else if (mark) toggle(open, text, mark, index);
  }
  return { open, code };
}

function toggle(open, text, mark, index) {
  const before = text[index - 1] ?? " ", after = text[index + mark.length] ?? " ";
  if (mark[0] === "_" && WORD.test(before) && WORD.test(after)) return;
  const own = open.findLastIndex((other) => other.mark === mark);
  if (own >= 0 && before.trim()) open.length = own;
  else if (after.trim() || index + mark.length === text.length) open.push({ mark, index });
}

/** A lone run of ticks at the end may yet grow: it is not shown. A code span that opened elsewhere is closed. */
function closeCode(text, { run, index }) {
  const inside = text.slice(index + run.length);
  if (!inside.trim()) return text.slice(0, index);
  const half = /`+$/.exec(inside)?.[0] ?? "";
  return half ? text.slice(0, text.length - half.length) + run : text + run;
}

function closeEmphasis(text, open) {
  let shown = text;
  while (open.length && open.at(-1).index + open.at(-1).mark.length >= shown.trimEnd().length) shown = shown.slice(0, open.pop().index);
  const end = shown.trimEnd();
  return end + open.map((one) => one.mark).reverse().join("") + shown.slice(end.length);
}
