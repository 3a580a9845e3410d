/** HTML's character references, as far as answers use them. What is not here stays as it was written. */
const NAMED = new Map(Object.entries({
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", shy: "\u00ad", copy: "©", reg: "®", trade: "™",
  deg: "°", plusmn: "±", micro: "µ", middot: "·", para: "¶", sect: "§", laquo: "«", raquo: "»", times: "×", divide: "÷",
  frac12: "½", frac14: "¼", frac34: "¾", sup2: "²", sup3: "³", euro: "€", pound: "£", yen: "¥", cent: "¢",
  ndash: "–", mdash: "—", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", bull: "•", hellip: "…", larr: "←", uarr: "↑",
  rarr: "→", darr: "↓", harr: "↔", rArr: "⇒", ne: "≠", le: "≤", ge: "≥", asymp: "≈", infin: "∞", minus: "−", radic: "√",
  sum: "∑", prod: "∏", alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", lambda: "λ", mu: "μ", pi: "π",
  sigma: "σ", omega: "ω", Delta: "Δ", Sigma: "Σ", Omega: "Ω", check: "✓", star: "☆", hearts: "♥",
}));
const REFERENCE = /&(?:#[xX]([0-9a-fA-F]{1,6})|#([0-9]{1,7})|([A-Za-z][A-Za-z0-9]{1,31}));/g;

/** @param {string} text @returns {string} */
export function decode(text) {
  if (!text.includes("&")) return text;
  return text.replace(REFERENCE, (whole, hex, decimal, name) => {
    if (name) return NAMED.get(name) ?? whole;
    return character(hex ? parseInt(hex, 16) : parseInt(decimal, 10));
  });
}

function character(code) {
  const real = code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
  return real ? String.fromCodePoint(code) : "\ufffd";
}
