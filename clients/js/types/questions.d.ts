export type Message = import("./messages.js").Message;
export type Question = {
    message: object;
    wanted: string;
    settle: (answer: Message) => void;
};
export declare class Questions {
    #private;
    /** @param {import("./outbox.js").Outbox} out */
    constructor(out: import("./outbox.js").Outbox);
    /** How many wait. */
    get count(): number;
    /**
     * @param {Question} question
     * @param {boolean} connected
     */
    add(question: Question, connected: boolean): void;
    /** Asks the oldest, on the connection that there is now. */
    ask(): void;
    /** @param {Message} answer the oldest one's, if it is what that waits for */
    answer(answer: Message): void;
    /** @param {string} why nobody will answer any more */
    end(why: string): void;
}
