/** The address under which pages have always loaded the client. */
export * from "./index.js";
