/**
 * The history holds what an answer said, long thoughts up to a limit. What else there was of it, its figures above all, is
 * read out of its log, as long as that is kept, when somebody comes near it.
 */
const NEAR = "400px";

export class Recall {
  #answers = new Map(); #queue = []; #busy = false;
  #near = new IntersectionObserver((entries) => this.#come(entries), { rootMargin: NEAR });

  constructor(client) { this.client = client; }

  /** @param {import("./message.js").Answer} answer that has ended before this page was here */
  watch(answer) {
    this.#answers.set(answer.node, answer);
    this.#near.observe(answer.node);
  }

  #come(entries) {
    for (const { target } of entries.filter(({ isIntersecting }) => isIntersecting)) {
      this.#near.unobserve(target);
      this.#queue.push(this.#answers.get(target));
      this.#answers.delete(target);
    }
    this.#next();
  }

  /** One at a time: connections follow only so many streams at once. */
  async #next() {
    if (this.#busy) return;
    this.#busy = true;
    for (let answer; (answer = this.#queue.shift());) if (answer.node.isConnected) await this.#read(answer);
    this.#busy = false;
  }

  async #read(answer) {
    const stream = this.client.follow(answer.streamId);
    stream.addEventListener("change", () => stream.rendered());
    await stream.done;
    answer.recall(stream);
  }
}
