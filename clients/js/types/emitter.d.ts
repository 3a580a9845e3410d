/** Events whose listeners cannot harm whoever emits them. */
/** An EventTarget that reports what a listener throws, or rejects with, and goes on. */
export declare class Emitter extends EventTarget {
    #private;
    /**
     * @override
     * @param {string} type
     * @param {any} listener
     * @param {boolean|AddEventListenerOptions} [options]
     */
    addEventListener(type: string, listener: any, options?: boolean | AddEventListenerOptions): void;
    /**
     * @override
     * @param {string} type
     * @param {any} listener
     * @param {boolean|EventListenerOptions} [options]
     */
    removeEventListener(type: string, listener: any, options?: boolean | EventListenerOptions): void;
    /**
     * Listens to an event's detail.
     * @param {string} type
     * @param {(detail: any) => unknown} listener
     * @returns {() => void} stops listening
     */
    on(type: string, listener: (detail: any) => unknown): () => void;
    /**
     * @param {string} type
     * @param {object} [detail]
     */
    emit(type: string, detail?: object): void;
}
