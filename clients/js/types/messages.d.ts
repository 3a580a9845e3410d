/** Reading the server's messages: what does not have the documented shape never gets further than here. */
export type Message = {
    type: string;
    [field: string]: any;
};
/**
 * The message in `text`; null where it is malformed. A message of an unknown type has `unknown` set.
 * @param {string} text
 * @returns {{message: Message, unknown: boolean}|null}
 */
export declare function decode(text: string): {
    message: Message;
    unknown: boolean;
} | null;
/** @param {string} text bytes it takes in UTF-8 */
export declare function utf8Length(text: string): number;
