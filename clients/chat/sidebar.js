/** The list of conversations. */
import { $, element, say } from "./elements.js";

/** As in page.css. */
const OVER = "(max-width: 52rem)";

export class Sidebar {
  #renaming = null;

  /** @param {{open: (id?: string) => void, rename: (id: string, title: string) => void, remove: (id: string) => void}} acts */
  constructor(sessions, acts) {
    this.sessions = sessions;
    this.acts = acts;
    sessions.addEventListener("change", () => this.draw());
    $("search").addEventListener("input", () => this.draw());
    $("new").addEventListener("click", () => acts.open());
    $("show-sidebar").addEventListener("click", () => this.show(true));
    $("hide-sidebar").addEventListener("click", () => this.show(false));
    addEventListener("keydown", (event) => { if (event.key === "Escape" && this.isShown && !this.#renaming) { event.preventDefault(); this.show(false); } }, true);
    this.draw();
  }

  /** Where there is room it is always there. */
  get #isOver() { return matchMedia(OVER).matches; }
  get isShown() { return $("sidebar").classList.contains("shown"); }

  /** On a phone the list lies over the conversation. */
  show(shown) {
    if (!this.#isOver || shown === this.isShown) return;
    $("sidebar").classList.toggle("shown", shown);
    $("show-sidebar").setAttribute("aria-expanded", String(shown));
    $(shown ? "hide-sidebar" : "show-sidebar").focus();
  }

  search() {
    this.show(true);
    $("search").focus();
  }

  draw() {
    if (this.#renaming) return;
    const wanted = $("search").value.trim().toLowerCase();
    const found = this.sessions.list.filter(({ title }) => title.toLowerCase().includes(wanted));
    const focused = this.#focused();
    $("sessions").replaceChildren(...found.map((entry) => this.#row(entry)));
    $("no-sessions").hidden = found.length > 0;
    say($("no-sessions"), wanted ? "Nothing found." : "Conversations appear here.");
    if (focused) this.#focus(focused);
  }

  /** @returns {{id: string, row: number, button: number}|null} where in the list the focus is */
  #focused() {
    const row = document.activeElement?.closest("#sessions li");
    if (!row) return null;
    return { id: row.dataset.id, row: [...row.parentNode.children].indexOf(row), button: [...row.children].indexOf(document.activeElement) };
  }

  /** The same place in a new list; where its row is gone, the one that took its place. */
  #focus({ id, row, button }) {
    const rows = [...$("sessions").children];
    const same = rows.find((one) => one.dataset.id === id);
    if (same) same.children[Math.max(0, button)].focus();
    else (rows[row]?.firstChild ?? rows.at(-1)?.firstChild ?? $("new")).focus();
  }

  #row({ id, title }) {
    const current = id === this.sessions.current, running = this.sessions.running.has(id);
    const open = element("button", { type: "button", className: "open", title }, title);
    if (current) open.setAttribute("aria-current", "page");
    if (running) open.setAttribute("aria-description", "An answer is being written");
    open.addEventListener("click", () => { this.acts.open(id); this.show(false); });
    const rename = element("button", { type: "button", className: "icon tool", label: `Rename ${title}`, title: "Rename" }, "✎");
    rename.addEventListener("click", () => this.#rename(id, title));
    const remove = element("button", { type: "button", className: "icon tool", label: `Delete ${title}`, title: "Delete" }, "✕");
    remove.addEventListener("click", () => this.acts.remove(id));
    const row = element("li", { className: `${current ? "current" : ""} ${running ? "running" : ""}` }, open, rename, remove);
    row.dataset.id = id;
    return row;
  }

  #rename(id, title) {
    const row = $("sessions").querySelector(`[data-id="${CSS.escape(id)}"]`);
    const field = element("input", { value: title, maxLength: 200, label: "Title" });
    this.#renaming = id;
    const done = (keep, stays) => {
      if (this.#renaming !== id) return;
      this.#renaming = null;
      if (keep && field.value.trim()) this.acts.rename(id, field.value.trim());
      this.draw();
      if (stays) $("sessions").querySelector(`[data-id="${CSS.escape(id)}"] .open`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      done(event.key === "Enter", true);
    });
    field.addEventListener("blur", () => done(true, false));
    row.replaceChildren(field);
    field.select();
  }
}
