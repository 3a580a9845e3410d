/** What the browser keeps for the page. Where it may keep nothing, or has no room, the page works until it is closed. */
let warned = false;

/** @template T @param {() => T} act @returns {T|null} null where the browser refuses */
function dared(act) {
  try { return act(); }
  catch (error) {
    if (!warned) console.warn("This browser keeps nothing for the page:", error);
    warned = true;
    return null;
  }
}

/** @param {() => Storage} of asked for each time: where cookies are blocked, naming it throws already */
const shelf = (of) => ({
  /** @param {string} key @returns {string|null} */
  get: (key) => dared(() => of().getItem(key)),
  /** @param {string} key @param {string} value */
  set: (key, value) => { dared(() => of().setItem(key, value)); },
});

/** For every tab, over restarts. */
export const forAll = shelf(() => localStorage);
/** For this tab, over reloads. */
export const forTab = shelf(() => sessionStorage);
