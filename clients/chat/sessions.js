/** The conversations this browser knows: ids and titles in its own storage, in step between tabs. */
import { forAll, forTab } from "./storage.js";
import { publish, subscribe } from "./tabs.js";

const KEY = "wsstream.sessions";
const CURRENT = "wsstream.session";
const MOST = 200;
const MOST_REPLACED = 200;

/** @typedef {{id: string, title: string, updated: number, named?: boolean, replaced?: string[]}} Entry */

function read() {
  try {
    const list = JSON.parse(forAll.get(KEY) ?? "[]");
    return Array.isArray(list) ? list.filter((one) => typeof one?.id === "string" && typeof one.title === "string") : [];
  } catch { return []; }
}

function newId() {
  return "ses_" + Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Sessions extends EventTarget {
  /** @type {Entry[]} newest first */
  list = read();
  /** The one on the page; it stands in the list from its first message. Each tab has its own. */
  current = forTab.get(CURRENT) ?? this.list[0]?.id ?? newId();
  /** Sessions with a running answer, as far as this tab knows. */
  running = new Set();

  constructor() {
    super();
    subscribe("sessions", () => {
      if (forAll.get(KEY) === null) return;
      this.list = read();
      this.#changed();
    });
    subscribe("running", ({ id, on }) => this.#setRunning(id, on));
    forTab.set(CURRENT, this.current);
  }

  find(id) { return this.list.find((one) => one.id === id); }
  title(id = this.current) { return this.find(id)?.title ?? "New conversation"; }

  open(id = newId()) {
    this.current = id;
    forTab.set(CURRENT, id);
    this.#changed();
  }

  /** Somebody has written in it. */
  touch(id, firstWords) {
    const title = firstWords.replace(/\s+/g, " ").trim().slice(0, 60) || "Conversation";
    const entry = this.find(id) ?? { id, title, updated: 0 };
    entry.updated = Date.now();
    this.list = [entry, ...this.list.filter((one) => one !== entry)].slice(0, MOST);
    this.#save();
  }

  rename(id, title) {
    const entry = this.find(id);
    if (!entry || !title || entry.title === title) return;
    Object.assign(entry, { title: title.slice(0, 200), named: true });
    this.#save();
  }

  forget(id) {
    this.list = this.list.filter((one) => one.id !== id);
    this.#save();
  }

  /** Answers whose place another one has taken; the server keeps them in its history. */
  replaced(id) { return new Set(this.find(id)?.replaced ?? []); }

  replace(id, streamIds) {
    const entry = this.find(id);
    if (!entry || !streamIds.length) return;
    entry.replaced = [...(entry.replaced ?? []), ...streamIds].slice(-MOST_REPLACED);
    this.#save();
  }

  /** Says to all tabs whether an answer runs there. */
  setRunning(id, on) {
    if (this.running.has(id) === on) return;
    this.#setRunning(id, on);
    publish("running", { id, on });
  }

  #setRunning(id, on) {
    if (on) this.running.add(id);
    else this.running.delete(id);
    this.#changed();
  }

  #save() {
    forAll.set(KEY, JSON.stringify(this.list));
    publish("sessions");
    this.#changed();
  }

  #changed() { this.dispatchEvent(new Event("change")); }
}
