/**
 * Hears what other browsers do with the conversation on the page. The page's own connection belongs to the conversation
 * that it was opened with; for any other one there is a second connection, that only listens.
 */
import { listen } from "./wire.js";

export class Watcher {
  #second = null; #sessionId = null;

  /** @param {(change: object) => void} changed told each `session_changed` */
  constructor(client, changed) {
    this.client = client;
    this.changed = changed;
    this.#hear(client);
    client.addEventListener("connected", () => { if (this.#second?.state === "stopped") this.#second.connect(); });
  }

  /** @param {string|null} sessionId what is on the page; null while the server does not know it */
  watch(sessionId) {
    if (sessionId === this.#sessionId) return;
    this.#sessionId = sessionId;
    this.#second?.close();
    const known = sessionId === null || sessionId === this.client.sessionId;
    this.#second = known ? null : this.#hear(listen(sessionId));
  }

  #hear(client) {
    client.addEventListener("session_changed", ({ detail }) => this.changed(detail.message));
    return client;
  }
}
