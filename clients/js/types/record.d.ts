/** What the session knows about one stream: its text in pieces, and where its reader stands. The mirror of `View` in wsstream/client_protocol.py. */
import { AckPacer, WishedWindow } from "./flow.js";
export type Outcome = {
    ok: boolean;
    finish_reason?: string;
    error_type?: string;
    message?: string;
    recoverable?: boolean;
    retry_after?: number;
    parsed?: any;
    [field: string]: any;
};
export type Piece = {
    first: number;
    last: number;
    kind: string;
    content: string;
    bytes: number;
    textEnd: number;
};
export type Known = {
    lastChunkId?: number;
    text?: string;
    reasoning?: string;
};
export type Asked = {
    requestId?: string;
    streamId?: string;
    message?: string;
    messages?: object[];
    config?: object;
    sessionId?: string;
    again?: boolean;
};
/** @typedef {{ok: boolean, finish_reason?: string, error_type?: string, message?: string, recoverable?: boolean, retry_after?: number, parsed?: any, [field: string]: any}} Outcome */
/** @typedef {{first: number, last: number, kind: string, content: string, bytes: number, textEnd: number}} Piece chunks `first` to `last`; `textEnd` is how long the text is behind it */
/** @typedef {{lastChunkId?: number, text?: string, reasoning?: string}} Known what a reader has already: all of it up to a chunk */
/** @typedef {{requestId?: string, streamId?: string, message?: string, messages?: object[], config?: object, sessionId?: string, again?: boolean}} Asked */
export declare class StreamRecord {
    #private;
    asked: Asked;
    /** @type {string|undefined} */ requestId: string | undefined;
    /** @type {string|undefined} */ streamId: string | undefined;
    /** @type {string|undefined} */ epoch: string | undefined;
    /** @type {string|undefined} */ model: string | undefined;
    /** Place in the queue; 0 where it does not wait. */
    position: number;
    /** Chunk ids: the last with no gap before it, the last shown. */
    received: number;
    rendered: number;
    pacer: AckPacer;
    wished: WishedWindow;
    /** When a request that was refused for want of capacity is made again. */
    askAt: number;
    refusals: number;
    /** @type {"off"|"asked"|"live"} whether this connection delivers the stream; what comes while it is not live is stale. */
    link: "off" | "asked" | "live";
    sent: boolean;
    started: boolean;
    cancelled: boolean;
    snapshot: boolean;
    /** Nobody reads it any more: what comes is acknowledged and thrown away. */
    left: boolean;
    /** More came than may be kept: the rest is asked for when the reader has caught up. */
    overflowed: boolean;
    /** The chunk a batch is to end at, so that a rewind can withdraw what is behind it; 0 for none. */
    seam: number;
    resumes: number;
    gaps: number;
    /** Received and not yet rendered. */
    bufferedPieces: number;
    bufferedBytes: number;
    /** @type {Outcome|null} */
    outcome: Outcome | null;
    /** @param {Asked} asked */
    constructor(asked: Asked);
    /** The last chunk that was acknowledged. */
    get acked(): number;
    get window(): number;
    get inFlight(): number;
    /** Bytes that were dealt with, of all that ever came. */
    get shownBytes(): number;
    get textLength(): number;
    get text(): string;
    /** @param {string} kind everything of one kind, joined when it is looked at */
    textOf(kind: string): string;
    /** @param {number} at the text behind its first `at` UTF-16 units; costs what it returns, not what there is */
    textFrom(at: number): string;
    /**
     * What its reader has already, for example from the session's history: it goes on behind that.
     * @param {Known} from
     */
    begin({ lastChunkId, text, reasoning }: Known): void;
    /**
     * @param {number} first
     * @param {number} last
     * @param {string} kind
     * @param {string} content
     */
    append(first: number, last: number, kind: string, content: string): void;
    /**
     * The end of the last piece that lies before a chunk or ends with it.
     * @param {number} chunkId
     */
    lastEnd(chunkId: number): number;
    /** @param {number} upTo */
    renderedTo(upTo: number): void;
    /**
     * What was rendered is acknowledged; from here on acks keep pace with a new window.
     * @param {number} window what the server grants, however fast anybody reads
     * @param {import("./flow.js").Terms} terms
     */
    open(window: number, terms: import("./flow.js").Terms): void;
    /** The connection that would have brought the rest is gone: what nobody has seen yet comes again. */
    forgetUnseen(): void;
    /**
     * Withdraws what is behind a chunk.
     * @param {number} chunkId the rewind's own
     * @param {number} toChunkId
     * @param {number} [withdrawn] code points of text that this is; with them a merged batch can be cut
     * @returns {boolean} false when the target lies inside a batch that cannot be cut: then the text goes back to its start
     */
    rewind(chunkId: number, toChunkId: number, withdrawn?: number): boolean;
}
