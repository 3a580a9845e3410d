import { Emitter } from "./emitter.js";
export type StreamRecord = import("./record.js").StreamRecord;
export type Outcome = import("./record.js").Outcome;
export type Session = import("./session.js").Session;
/** @typedef {import("./record.js").StreamRecord} StreamRecord */
/** @typedef {import("./record.js").Outcome} Outcome */
/** @typedef {import("./session.js").Session} Session */
/**
 * One answer.
 *
 * Either iterate (`for await (const text of stream)`: asking for the next piece acknowledges the one before), or listen
 * to `change`, show `text` and call `rendered`; `onFrames` does that at the pace of the screen. Whoever does neither
 * makes the server wait once the window is full.
 *
 * Events: `start`, `resumed`, `contentChunk`, `change`, `rewind` (text was withdrawn), `status`, `chunkGap`,
 * `complete`, `streamError`, `streamFailed`, `end`.
 */
export declare class ChatStream extends Emitter {
    #private;
    info: import("./record.js").StreamRecord;
    /**
     * @param {StreamRecord} info read it, do not write to it
     * @param {<T>(step: (session: Session, now: number) => T) => T} run
     */
    constructor(info: StreamRecord, run: <T>(step: (session: Session, now: number) => T) => T);
    get id(): string | undefined;
    get requestId(): string | undefined;
    /** All text so far, without what was withdrawn. */
    get text(): string;
    get reasoning(): string;
    get data(): string;
    get lastChunkId(): number;
    /** @returns {Outcome|null} null while it runs */
    get outcome(): Outcome | null;
    /** What the server read out of a structured answer; null before the end. */
    get parsed(): any;
    /** @param {number} at the text behind its first `at` UTF-16 units */
    textFrom(at: number): string;
    /** @param {number} [chunkId] everything up to here is on the screen; the server may send as much again */
    rendered(chunkId?: number): void;
    /**
     * Stops the answer, for everybody. Without a connection it is said on the next one. What was sent before still comes.
     * @returns {boolean} false where it has ended already, which `outcome` tells: also when its connection was closed for good
     */
    cancel(): boolean;
    /** Reads no further; the answer goes on for whoever else follows it. */
    leave(): void;
    /** Resolves at the end, whatever it is. @returns {Promise<Outcome>} */
    get done(): Promise<Outcome>;
    /** Text as it comes, what has gathered meanwhile in one piece. What a rewind withdraws has been handed out already: `text` is right. */
    [Symbol.asyncIterator](): AsyncGenerator<string, void, unknown>;
}
