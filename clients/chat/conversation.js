/** One conversation: its messages on the page, and the answers that run in it. */
import { element } from "./elements.js";
import { Answer, notice, Question } from "./message.js";
import { joinResults, plain } from "./results.js";
import { publish } from "./tabs.js";

/** Messages that are read at once. */
const PAGE = 60;
/** Those among which one is looked for that has just begun. */
const NEWEST = 20;
/** A request must fit into one message of the wire, with room for the rest of it. */
const MOST_CONTEXT = 48 * 1024;

export class Conversation {
  node = element("div", { className: "conversation", hidden: true });
  /** @type {(Question|Answer)[]} */
  messages = [];
  restored = false;
  /** The oldest message on the page, and whether the one before it was replaced with it. */
  #oldest = ""; #cut = false;
  /** What tools gave to calls that are not on the page yet. */
  #results = new Map();

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
    // Where answers were replaced, the page says itself what was said before: then it needs all of it.
    const limit = this.sessions.replaced(this.id).size ? undefined : PAGE;
    try { history = await this.client.history(this.id, { limit }); }
    catch (error) { return this.#restoreFailed(error); }
    // Asked something before the history came: what is on the page is newer.
    if (!this.isEmpty) return;
    if (!history.messages.length) return this.notify("The server has nothing of this conversation any more.");
    if (history.title) this.sessions.rename(this.id, history.title);
    this.#restorePage(history);
    this.hooks.changed(this);
  }

  /** Messages that stand before all others on the page. */
  #restorePage({ messages, more }) {
    joinResults(messages, this.#results);
    const replaced = this.sessions.replaced(this.id);
    const gone = new Set(messages.flatMap(({ stream_id }, at) => replaced.has(stream_id) ? [at, at - 1] : []));
    if (this.#cut) gone.add(messages.length - 1);
    this.#cut = gone.has(-1);
    this.#oldest = messages[0]?.id ?? "";
    this.#hush();
    const newer = this.messages.splice(0);
    const first = this.node.firstChild;
    messages.forEach((message, at) => { if (!gone.has(at)) this.#restoreOne(message, first); });
    if (more) this.node.prepend(this.#earlierButton());
    this.messages.push(...newer);
  }

  #earlierButton() {
    const button = element("button", { type: "button", className: "earlier" }, "Earlier messages");
    button.addEventListener("click", () => this.#readEarlier(button));
    return button;
  }

  async #readEarlier(button) {
    button.disabled = true;
    let history;
    try { history = await this.client.history(this.id, { before: this.#oldest, limit: PAGE }); }
    catch (error) {
      button.disabled = false;
      return this.notify(`Earlier messages could not be read. ${error.message}`);
    }
    button.remove();
    const first = this.node.firstElementChild;
    this.#restorePage(history);
    // From here on the browser itself keeps the place, as what stands above is painted.
    first?.scrollIntoView({ block: "start" });
    this.node.querySelector(".earlier")?.focus({ preventScroll: true });
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

  #restoreOne({ role, content, is_complete, stream_id, last_chunk_id, reasoning, tool_calls: calls }, before = null) {
    if (role === "tool") return;
    const text = plain(content);
    if (role === "user") return this.#add(this.#question(text), before);
    const answer = this.#add(this.#answer(), before);
    // One that runs is read from its start, with all it thought.
    if (last_chunk_id !== undefined) return this.#follow(answer, this.client.follow(stream_id));
    answer.show(text, { complete: is_complete, streamId: stream_id, reasoning, calls });
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
    if (answer.running && this.client.state !== "connected") answer.waits();
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
    const { messages } = await this.client.history(this.id, { limit: NEWEST });
    const at = messages.findIndex(({ stream_id }) => stream_id === streamId);
    if (at < 0 || this.messages.some((one) => one.streamId === streamId)) return;
    joinResults(messages);
    for (const { stream_id, tool_calls: calls } of messages) if (calls) this.messages.find((one) => one.streamId === stream_id)?.showCalls(calls);
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

  #add(message, before = null) {
    this.#hush();
    this.messages.push(message);
    this.node.insertBefore(message.node, before);
    return message;
  }

  /** Reads no further here. */
  leave() {
    for (const one of this.messages) if (one.running) one.stream.leave();
    this.node.remove();
  }
}
