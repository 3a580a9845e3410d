/** Events whose listeners cannot harm whoever emits them. */

/** @type {(error: unknown) => void} */
const report = (error) => (globalThis.reportError ?? console.error)(error);

/** An EventTarget whose details are listened to with `on`. */
export class Emitter extends EventTarget {
  /**
   * Listens to an event's detail. What the listener throws, or rejects with, is reported.
   * @param {string} type
   * @param {(detail: any) => unknown} listener
   * @returns {() => void} stops listening
   */
  on(type, listener) {
    const heard = async (/** @type {any} */ event) => {
      try { await listener(event.detail); } catch (error) { report(error); }
    };
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }

  /**
   * @param {string} type
   * @param {object} detail
   */
  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
