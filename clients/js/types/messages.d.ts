/** Reading the server's messages: what does not have the documented shape never gets further than here. */
export type Message = {
    type: string;
    [field: string]: any;
};
/**
 * The message in `text`, and whether it can be acted on. One that is malformed is null, and not known.
 * @param {string} text
 * @returns {{message: any, known: boolean}}
 */
export declare function decode(text: string): {
    message: any;
    known: boolean;
};
/** @param {string} text bytes it takes in UTF-8 */
export declare const utf8Length: (text: string) => number;
/**
 * A message as JSON. Half of a surrogate pair, as a text has it that was cut in the middle of an emoji, is no text for the
 * server, which would close the connection: it becomes a replacement character.
 *
 * @param {object} message
 */
export declare function encode(message: object): string;
