/** Events whose listeners cannot harm whoever emits them. */
/** An EventTarget whose details are listened to with `on`. */
export declare class Emitter extends EventTarget {
    /**
     * Listens to an event's detail. What the listener throws, or rejects with, is reported.
     * @param {string} type
     * @param {(detail: any) => unknown} listener
     * @returns {() => void} stops listening
     */
    on(type: string, listener: (detail: any) => unknown): () => void;
    /**
     * @param {string} type
     * @param {object} detail
     */
    emit(type: string, detail: object): void;
}
