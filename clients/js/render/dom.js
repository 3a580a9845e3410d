/** Puts trees into the document, and changes no more of it than has changed. The allow-list is checked here once more. */

const TAGS = new Set(("p h1 h2 h3 h4 h5 h6 blockquote hr ul ol li div pre code span table thead tbody tr th td "
  + "strong em del br a button").split(" "));
const ATTRIBUTES = new Set("class href rel target start type tabindex role aria-label data-lang data-open".split(" "));
/** Elements whose inside somebody else has dressed up since. */
const dressed = new WeakSet();

/** @param {import("./tree.js").Tree} tree @returns {Node} */
export function create(tree) {
  if (typeof tree === "string") return document.createTextNode(tree);
  if (!TAGS.has(tree.tag)) throw new TypeError(`${tree.tag} is not among the elements of an answer`);
  const element = document.createElement(tree.tag);
  setAttributes(element, {}, tree.attrs);
  element.append(...tree.children.map(create));
  return element;
}

/** Replaces what is inside an element without `patch` knowing: it will put it right when the tree changes. */
export function dress(element, ...nodes) {
  dressed.add(element);
  element.replaceChildren(...nodes);
}

export const isDressed = (element) => dressed.has(element);

/**
 * Makes what showed `old` show `next`.
 * @returns {Node} the node that shows it now: the same one wherever possible
 */
export function patch(node, old, next) {
  if (old === next) return node;
  if (typeof old === "string" && typeof next === "string") return patchText(node, old, next);
  if (typeof old === "string" || typeof next === "string" || old.tag !== next.tag) return replace(node, next);
  setAttributes(node, old.attrs, next.attrs);
  if (dressed.has(node)) {
    if (isSame(old.children, next.children)) return node;
    dressed.delete(node);
    node.replaceChildren(...old.children.map(create));
  }
  patchChildren(node, old.children, next.children);
  return node;
}

/** Only texts are ever dressed. */
function isSame(old, next) {
  return old.length === next.length && old.every((one, at) => one === next[at]);
}

function patchText(node, old, next) {
  if (next.startsWith(old)) node.appendData(next.slice(old.length));
  else node.data = next;
  return node;
}

function replace(node, next) {
  const made = create(next);
  node.replaceWith(made);
  return made;
}

function patchChildren(parent, old, next) {
  const common = Math.min(old.length, next.length);
  for (let at = 0, node = parent.firstChild; at < common; at += 1) node = patch(node, old[at], next[at]).nextSibling;
  while (parent.childNodes.length > next.length) parent.lastChild.remove();
  parent.append(...next.slice(common).map(create));
}

function setAttributes(element, old, next) {
  for (const name of Object.keys(old)) if (!Object.hasOwn(next, name)) element.removeAttribute(name);
  for (const [name, value] of Object.entries(next)) {
    if (!ATTRIBUTES.has(name)) throw new TypeError(`${name} is not among the attributes of an answer`);
    if (old[name] !== value) element.setAttribute(name, value);
  }
}
