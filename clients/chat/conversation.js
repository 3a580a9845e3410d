/** One conversation: its messages on the page, and the answers that run in it. */
import { element } from "./elements.js";
import { Answer, notice, Question } from "./message.js";
import { publish } from "./tabs.js";

/** A request must fit into one message of the wire, with room for the rest of it. */
const MOST_CONTEXT = 48 * 1024;

export class Conversation {
  node = element("div", { className: "conversation", hidden: true });
  /** @type {(Question|Answer)[]} */
  messages = [];
  restored = false;

  constructor(id, { client, sessions, recall, hooks }) {
    Object.assign(this, { id, client, sessions, recall, hooks });
  }

  get running() { return this.messages.findLast((one) => one.running) ?? null; }
  get last() { return this.messages.at(-1); }
  get isEmpty() { return this.messages.length === 0; }

  /** What was said, and the answer that still runs from where the history ends. */
  async restore() {
    if (this.restored) return;
    this.restored = true;
    let history;
    try { history = await this.client.history(this.id); }
    catch (error) { return this.#restoreFailed(error); }
    // Asked something before the history came: what is on the page is newer.
    if (!this.isEmpty) return;
    if (!history.messages.length) return this.notify("The server has nothing of this conversation any more.");
    if (history.title) this.sessions.rename(this.id, history.title);
    const replaced = this.sessions.replaced(this.id);
    const gone = new Set(history.messages.flatMap(({ stream_id }, at) => replaced.has(stream_id) ? [at, at - 1] : []));
    history.messages.forEach((message, at) => { if (!gone.has(at)) this.#restoreOne(message); });
    this.hooks.changed(this);
  }

  #restoreFailed(error) {
    this.restored = false;
    this.notify(`What was said before could not be read. ${error.message}`);
  }

  /** Says something at the end of the conversation; what was said there last gives way, so that nothing piles up. */
  notify(words) {
    this.#hush();
    this.node.append(notice(words));
    this.hooks.changed(this);
  }

  #hush() { if (this.node.lastChild?.matches(".notice")) this.node.lastChild.remove(); }

  #restoreOne({ role, content, is_complete, stream_id, last_chunk_id }) {
    const text = typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");
    if (role === "user") return this.#add(this.#question(text));
    const answer = this.#add(this.#answer());
    // One that runs is read from its start: the history has only its text.
    if (last_chunk_id !== undefined) return this.#follow(answer, this.client.follow(stream_id));
    answer.show(text, { complete: is_complete, streamId: stream_id });
    if (stream_id) this.recall.watch(answer);
  }

  /** Asks for an answer. @param {object} config `model`, `provider` */
  ask(text, config) {
    this.restored = true;
    this.sessions.touch(this.id, text);
    this.#add(this.#question(text));
    const answer = this.#add(this.#answer());
    const stream = this.client.chat(this.#prompt(text), config, { sessionId: this.id });
    stream.addEventListener("start", () => publish("started", { sessionId: this.id, streamId: stream.info.streamId, text }), { once: true });
    this.#follow(answer, stream);
    if (this.client.state !== "connected") answer.waits();
    this.hooks.changed(this);
  }

  /** Another tab has begun an answer. */
  join(streamId, text) {
    if (!this.restored || this.messages.some((one) => one.streamId === streamId)) return;
    this.#add(this.#question(text));
    this.#follow(this.#add(this.#answer()), this.client.follow(streamId));
    this.hooks.changed(this);
  }

  /** Another browser has begun an answer: its question stands in the history. */
  async discover(streamId) {
    if (!this.restored) return;
    const { messages } = await this.client.history(this.id);
    const at = messages.findIndex(({ stream_id }) => stream_id === streamId);
    if (at < 0 || this.messages.some((one) => one.streamId === streamId)) return;
    for (const message of messages.slice(Math.max(0, at - 1), at + 1)) this.#restoreOne(message);
    this.hooks.changed(this);
  }

  /** Asks this question once more, or another one in its place; what followed it is replaced. */
  replace(question, text, config) {
    const at = this.messages.indexOf(question);
    if (at < 0 || this.running) return;
    const gone = this.messages.splice(at);
    this.sessions.replace(this.id, gone.map((one) => one.streamId).filter(Boolean));
    for (const { node } of gone) node.remove();
    this.ask(text, config);
  }

  /** Answers that were replaced stay in the server's history: then the page says itself what counts. */
  #prompt(text) {
    if (!this.sessions.replaced(this.id).size) return text;
    const said = this.messages.slice(0, -1).filter((one) => one.text).map(({ role, text: content }) => ({ role, content }));
    let size = new Blob([JSON.stringify(said)]).size;
    while (said.length > 1 && size > MOST_CONTEXT) size -= new Blob([said.shift().content]).size;
    return said;
  }

  #question(text) {
    return new Question(text, { edit: (question) => this.hooks.edit(this, question) });
  }

  #answer() {
    return new Answer({
      retry: (answer) => this.hooks.retry(this, this.messages[this.messages.indexOf(answer) - 1]),
      ended: () => {
        this.sessions.setRunning(this.id, this.running !== null);
        this.hooks.changed(this);
      },
    });
  }

  #follow(answer, stream) {
    this.sessions.setRunning(this.id, true);
    answer.follow(stream);
  }

  #add(message) {
    this.#hush();
    this.messages.push(message);
    this.node.append(message.node);
    return message;
  }

  /** Reads no further here. */
  leave() {
    for (const one of this.messages) if (one.running) one.stream.leave();
    this.node.remove();
  }
}
