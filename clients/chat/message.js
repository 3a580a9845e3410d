/** The messages of a conversation, as they stand on the page. */
import { Highlighter, Renderer } from "../js/render/index.js";
import { toolCalls } from "../js/tools.js";
import { announce } from "./announcer.js";
import { copy, element, say } from "./elements.js";
import { painter, pace } from "./paint.js";
import { came } from "./wire.js";
import { count, failure, statusWords, summary } from "./words.js";

const highlighter = new Highlighter();
/** What ends an answer; anything else says that its log is not kept any more. */
const ENDS = new Set(["stream_complete", "stream_error"]);
/** Answers of more letters than this are laid out only where they are seen. */
const LONG = 20_000;

export class Question {
  role = "user";

  constructor(text, { edit }) {
    this.text = text;
    this.node = element("article", { className: "message mine", label: "You" },
      element("div", { className: "said" }, text),
      element("div", { className: "tools" },
        tool("Copy", (button) => copy(text, button)), tool("Edit", () => edit(this), "anew")));
  }
}

/** An answer: finished, from the history, or one that is being written. */
export class Answer {
  role = "assistant";
  stream = null; streamId; outcome = null;
  #main; #thoughts = null; #status = ""; #calls = []; #stopped = 0; #lastChunkId = 0;

  /** @param {{retry: (answer: Answer) => void, ended?: (answer: Answer) => void}} hooks */
  constructor(hooks) {
    this.hooks = hooks;
    this.body = element("div", { className: "answer main" });
    this.note = element("p", { className: "note" });
    this.retry = tool("Try again", () => hooks.retry(this), "anew");
    this.copying = tool("Copy", (button) => copy(this.text, button));
    this.node = element("article", { className: "message", label: "Answer" }, this.body,
      element("div", { className: "foot" }, this.note,
        element("div", { className: "tools" }, this.copying, this.retry)));
    this.#main = new Renderer(this.body);
    this.#main.onBlock = (node) => highlighter.look(node);
  }

  get text() { return this.stream ? this.stream.text : this.written ?? ""; }
  get running() { return this.stream !== null && this.outcome === null; }

  /** What was said before this page was here. */
  show(text, { complete, streamId, reasoning, calls = [] }) {
    this.written = text;
    this.streamId = streamId;
    this.outcome = { ok: complete };
    if (reasoning) this.#think(reasoning);
    this.#thoughts?.end();
    this.showCalls(calls);
    this.#main.write(text);
    this.#main.end();
    if (!complete) this.#say("This answer was cut short.", "wait");
    painter.add(this);
  }

  /** What the log knows beyond the text, where it is still kept. */
  recall(stream) {
    const { outcome, reasoning } = stream;
    if (!ENDS.has(outcome.type)) return;
    this.outcome = outcome;
    if (reasoning) this.#think(reasoning);
    this.#thoughts?.end();
    this.showCalls(toolCalls(stream));
    this.#sayEnd();
    painter.add(this);
  }

  follow(stream) {
    this.stream = stream;
    this.streamId = stream.info.streamId;
    this.node.classList.add("running", "waiting");
    this.node.ariaBusy = "true";
    this.retry.hidden = true;
    stream.addEventListener("change", ({ detail }) => this.#come(detail));
    stream.addEventListener("rewind", () => this.#withdraw());
    stream.addEventListener("status", ({ detail }) => this.#say(this.#status = statusWords(detail.message), "wait"));
    stream.addEventListener("end", () => this.#finish());
    this.#come({});
    // What could not be asked has ended already.
    if (stream.outcome) this.#finish();
  }

  stop() {
    if (!this.running || this.stream.info.cancelled) return;
    this.#stopped = performance.now();
    this.#say("Stopping…", "wait");
    // What no server knows yet ends at once, and says so.
    this.stream.cancel();
  }

  /** Asked while there is nobody to ask. */
  waits() { this.#say(this.#status = "Not connected: it is asked when the connection is back.", "wait"); }

  #come({ kind, content = "" }) {
    const { stream } = this;
    this.streamId = stream.info.streamId;
    if (kind) came(stream, stream.lastChunkId - this.#lastChunkId);
    this.#lastChunkId = stream.lastChunkId;
    if (kind === "reasoning") this.#think(stream.reasoning);
    if (kind === "tool_call") this.showCalls(toolCalls(stream));
    if (content || stream.info.received) this.#begun();
    else if (stream.info.position) this.#say(`In the queue, place ${stream.info.position}`, "wait");
    // After a lost connection what nobody saw comes again: the text is the same, so only its length counts.
    this.#main.write(stream.textFrom(this.#main.length), stream.lastChunkId);
    // What was on its way when it was stopped is got over with, not drawn out frame by frame.
    if (this.#stopped && !painter.paused) this.paint();
    else painter.add(this);
  }

  #begun() {
    if (this.node.classList.contains("waiting")) {
      this.node.classList.remove("waiting");
      announce("The answer begins.");
    }
    if (this.#status) this.#say(this.#status = "");
  }

  #withdraw() {
    this.#main.rewind(this.stream.info.textLength);
    if (this.#thoughts) this.#think(this.stream.reasoning);
    painter.add(this);
  }

  #think(text) {
    if (!this.#thoughts) {
      const inside = element("div", { className: "answer" });
      this.body.before(element("details", { className: "thoughts" }, element("summary", {}, "Thoughts"), inside));
      this.#thoughts = new Renderer(inside);
    }
    if (text.length < this.#thoughts.length) this.#thoughts.rewind(text.length);
    this.#thoughts.write(text.slice(this.#thoughts.length));
  }

  /** @param {object[]} calls those so far, of some of which the `result` is known */
  showCalls(calls) {
    calls.forEach((call, at) => {
      const block = this.#calls[at] ??= new CallBlock(call, this.body);
      block.show(call);
    });
  }

  #finish() {
    this.outcome = this.stream.outcome;
    this.#main.end();
    this.#thoughts?.end();
    this.node.ariaBusy = "false";
    this.retry.hidden = false;
    this.copying.hidden = !this.text;
    const { outcome } = this;
    if (this.#stopped) this.node.dataset.stopMs = (performance.now() - this.#stopped).toFixed(1);
    this.#sayEnd();
    announce(outcome.ok ? `The answer is complete. ${count(this.text.split(/\s+/).filter(Boolean).length)} words.` : failure(outcome));
    painter.add(this);
    this.hooks.ended?.(this);
  }

  #sayEnd() {
    const answered = this.#calls.length > 0 && this.#calls.every((call) => call.answered);
    if (this.outcome.ok) this.#say(summary(answered ? { ...this.outcome, finish_reason: undefined } : this.outcome));
    else this.#say(failure(this.outcome), "bad");
  }

  #say(words, kind = "") {
    this.note.textContent = words;
    this.note.className = `note ${kind}`;
  }

  /** What the painter calls. */
  paint(until) {
    this.#main.pace = this.stream && !this.#stopped ? pace.lettersPerSecond : 0;
    const thought = this.#thoughts?.paint(until) ?? true;
    const all = this.#main.paint(until) && thought;
    this.stream?.rendered(this.#main.rendered);
    this.body.classList.toggle("long", this.#main.length > LONG);
    if (all && !this.running) this.node.classList.remove("running", "waiting");
    return all;
  }
}

export function notice(words) { return element("p", { className: "notice", role: "alert" }, words); }

function tool(words, act, className = "") {
  const button = element("button", { type: "button", className }, words);
  button.addEventListener("click", () => act(button));
  return button;
}

/** One tool call, and what it gave; its arguments come in pieces. */
class CallBlock {
  #made = code(); #gave = null;

  constructor(call, before) {
    const name = call.name ?? call.function?.name ?? "tool";
    this.node = element("details", { className: "call" }, element("summary", {}, "Calls ", element("b", {}, String(name))), this.#made);
    before.before(this.node);
  }

  /** Whether its result is known. */
  get answered() { return this.#gave !== null; }

  show(call) {
    say(this.#made, legible(call.arguments ?? call.input ?? call.function?.arguments ?? ""));
    if (call.result === undefined) return;
    if (!this.answered) this.node.append(element("p", { className: "gave" }, "Result"), this.#gave = code());
    say(this.#gave, legible(call.result));
  }
}

/** What may be wider than the page, and is read with the keyboard, too. */
function code() { return element("pre", { tabIndex: 0 }); }

/** JSON with its lines indented; as it is while it is not all there. */
function legible(made) {
  try { return JSON.stringify(typeof made === "string" ? JSON.parse(made) : made, null, 2); } catch { return made; }
}
