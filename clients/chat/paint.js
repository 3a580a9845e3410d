/** The page's one painter, and how fast letters may come. */
import { Painter } from "../js/render/index.js";

export const painter = new Painter();
/** 0 shows what has come. */
export const pace = { lettersPerSecond: 0 };
