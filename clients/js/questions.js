/** Questions about a session. Servers take one at a time; the others wait for its answer, and for a connection. */
import { failed } from "./outbox.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {{message: object, wanted: string, settle: (answer: Message) => void}} Question `wanted` is the type of its answer; an `error` is one, too */

const MAX_QUESTIONS = 32;

/**
 * @param {string} type
 * @param {string} why
 */
const refusal = (type, why) => ({ type: "error", ...failed(type, why) });

export class Questions {
  /** @type {Question[]} */ #waiting = [];
  #out;

  /** @param {import("./outbox.js").Outbox} out */
  constructor(out) { this.#out = out; }

  /** How many wait. */
  get count() { return this.#waiting.length; }

  /**
   * @param {Question} question
   * @param {boolean} connected
   */
  add(question, connected) {
    if (this.count >= MAX_QUESTIONS) return question.settle(refusal("rate_limit", "Too many questions."));
    if (this.#waiting.push(question) === 1 && connected) this.ask();
  }

  /** Asks the oldest, on the connection that there is now. */
  ask() {
    const why = this.count && this.#out.send(this.#waiting[0].message);
    if (why) this.answer(refusal("message_too_large", why));
  }

  /** @param {Message} answer the oldest one's, if it is what that waits for */
  answer(answer) {
    const [question] = this.#waiting;
    if (!question || !["error", question.wanted].includes(answer.type)) return;
    this.#waiting.shift();
    question.settle(answer);
    this.#out.emit(answer.type, { message: answer });
    this.ask();
  }

  /** @param {string} why nobody will answer any more */
  end(why) { for (const { settle } of this.#waiting.splice(0)) settle(refusal("interrupted", why)); }
}
