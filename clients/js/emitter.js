/** Events whose listeners cannot harm whoever emits them. */

/** @param {unknown} error */
function report(error) {
  const host = /** @type {{reportError?: (error: unknown) => void}} */ (globalThis);
  if (host.reportError) host.reportError(error);
  else console.error(error);
}

/** An EventTarget that reports what a listener throws, or rejects with, and goes on. */
export class Emitter extends EventTarget {
  /** @type {WeakMap<object, (event: Event) => void>} the same wrapper for the same listener, so that it can be removed */
  #guarded = new WeakMap();

  /**
   * @param {any} listener
   * @returns {any}
   */
  #guard(listener) {
    if (!listener) return listener;
    let guarded = this.#guarded.get(listener);
    if (!guarded) {
      guarded = async (event) => {
        try { await (listener.handleEvent ? listener.handleEvent(event) : listener.call(this, event)); } catch (error) { report(error); }
      };
      this.#guarded.set(listener, guarded);
    }
    return guarded;
  }

  /**
   * @override
   * @param {string} type
   * @param {any} listener
   * @param {boolean|AddEventListenerOptions} [options]
   */
  addEventListener(type, listener, options) { super.addEventListener(type, this.#guard(listener), options); }

  /**
   * @override
   * @param {string} type
   * @param {any} listener
   * @param {boolean|EventListenerOptions} [options]
   */
  removeEventListener(type, listener, options) { super.removeEventListener(type, this.#guard(listener), options); }

  /**
   * Listens to an event's detail.
   * @param {string} type
   * @param {(detail: any) => unknown} listener
   * @returns {() => void} stops listening
   */
  on(type, listener) {
    const heard = (/** @type {any} */ event) => listener(event.detail);
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }

  /**
   * @param {string} type
   * @param {object} [detail]
   */
  emit(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
