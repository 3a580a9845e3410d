/** Streaming markdown for answers: docs/browser.md, "The renderer". */

/** Shows one growing text in one element. */
export declare class Renderer {
  constructor(element: Element);
  /** Letters a second; 0 shows everything at once. */
  pace: number;
  /** The last chunk whose text stands in the document: what may be acknowledged. */
  readonly rendered: number;
  /** Length of the text that was written, in UTF-16 units. */
  readonly length: number;
  /** Called with the node of each block that is new or has changed. */
  onBlock: (node: Node) => void;
  /** More of the text; `chunkId` is the chunk that this piece ends. */
  write(text: string, chunkId?: number): void;
  /** Withdraws the text behind `length`. */
  rewind(length: number): void;
  /** Nothing follows: what is open is shown as it was written. */
  end(): void;
  /** Brings the element up to date; false if `until`, in `performance.now()`'s milliseconds, came before all was there. */
  paint(until?: number): boolean;
}

export interface Paintable { paint(until: number): boolean }

/** Paints what has changed, once a frame, and no longer than a frame can bear. */
export declare class Painter {
  constructor(onPaint?: (painted: Paintable[], ms: number) => void);
  onPaint: (painted: Paintable[], ms: number) => void;
  /** While it is paused nothing is painted, and so nothing acknowledged. */
  paused: boolean;
  add(paintable: Paintable): void;
}

/** Colours finished code near the viewport; hand it to `onBlock`. */
export declare class Highlighter {
  look(block: Node): void;
}

/** The address of a link that may be followed, or nothing. */
export declare function safeLink(address: string): string | null;
