/** @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/**
 * Makes an element. What is not an attribute of a kind the page uses is set as a property; children are nodes and texts.
 * @param {string} tag @param {Record<string, any>} [fields] @param {...(Node|string)} children
 */
export function element(tag, fields = {}, ...children) {
  const { label, ...properties } = fields;
  const made = Object.assign(document.createElement(tag), properties);
  if (label) made.setAttribute("aria-label", label);
  made.append(...children);
  return made;
}

/** A live region or a page that changes only when the words do. */
export function say(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

/** Puts a text on the clipboard, and says so on the button for a moment. */
export async function copy(text, button) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Plain http, or the person has said no: there is nothing else that is not deprecated.
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = words; }, 1500);
}
