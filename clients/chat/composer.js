/** Where one writes. */
import { $ } from "./elements.js";

const TALLEST = 0.32;
/** Where a finger is the pointer, focus would bring up a keyboard that nobody asked for. */
const touch = matchMedia("(hover: none)");

export class Composer {
  #editing = null;

  /** @param {{send: (text: string) => void, replace: (question: object, text: string) => void, stop: () => void, editLast: () => void}} acts */
  constructor(acts) {
    this.acts = acts;
    $("composer").addEventListener("submit", (event) => this.#submit(event));
    // What sends becomes what stops: the second half of a double click is not meant for that.
    $("send").addEventListener("click", (event) => { if (this.isRunning && event.detail > 1) event.preventDefault(); });
    $("prompt").addEventListener("keydown", (event) => this.#key(event));
    $("prompt").addEventListener("input", () => this.#fit());
    $("stop-editing").addEventListener("click", () => this.edit(null));
  }

  /** While an answer runs the button stops it; one may write on meanwhile. */
  set running(running) {
    this.isRunning = running;
    $("send").textContent = running ? "Stop" : "Send";
    $("send").classList.toggle("stop", running);
  }

  /** Has this question written anew; null ends that. */
  edit(question) {
    this.#editing = question;
    $("editing").hidden = !question;
    $("prompt").value = question?.text ?? "";
    this.focus();
    this.#fit();
  }

  get isEditing() { return this.#editing !== null; }

  /** Where one goes on after something was done elsewhere. */
  focus() { $(touch.matches && !this.isEditing ? "messages" : "prompt").focus(); }

  #submit(event) {
    event.preventDefault();
    if (this.isRunning) return this.acts.stop();
    const text = $("prompt").value.trim();
    if (!text) return $("prompt").focus();
    const editing = this.#editing;
    this.edit(null);
    if (editing) this.acts.replace(editing, text);
    else this.acts.send(text);
  }

  #key(event) {
    if (event.key === "ArrowUp" && !$("prompt").value && !this.isRunning) {
      event.preventDefault();
      return this.acts.editLast();
    }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.isRunning) $("composer").requestSubmit();
  }

  /** Where the browser does not size fields by what is in them. */
  #fit() {
    if (CSS.supports("field-sizing", "content")) return;
    const lines = Math.min(10, $("prompt").value.split("\n").length);
    $("prompt").rows = Math.max(1, Math.min(lines, Math.floor(innerHeight * TALLEST / 24)));
  }
}
