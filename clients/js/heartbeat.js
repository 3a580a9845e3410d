/** Whether the other end is alive. The wire speaks seconds, the client milliseconds. */

const CONNECT_TIMEOUT_MS = 10_000;
const PROBE_TIMEOUT_MS = 2_000;
const MIN_INTERVAL_MS = 50;

export class Heartbeat {
  #heardAt = 0; #interval = 0; #timeout = 0; #beatAt = Infinity; #probeBy = Infinity; #sentAt = -1;
  /** @type {number|null} of the newest answered heartbeat */
  roundTripMs = null;

  /** @param {number} now a connection is being made: nothing is asked of it but that it comes to be in time */
  reset(now) {
    this.#timeout = CONNECT_TIMEOUT_MS;
    this.#beatAt = Infinity;
    this.#sentAt = -1;
    this.heard(now);
  }

  /**
   * @param {import("./messages.js").Message} greeting
   * @param {number} now
   */
  begin({ heartbeat_interval: interval, heartbeat_timeout: timeout }, now) {
    this.#interval = Math.max((interval ?? 15) * 1000, MIN_INTERVAL_MS);
    this.#timeout = (timeout ?? 45) * 1000;
    this.#beatAt = now + this.#interval;
  }

  /** @param {number} now any message is a sign of life */
  heard(now) {
    this.#heardAt = now;
    this.#probeBy = Infinity;
  }

  /** @param {number} now asks for a sign of life, which is then to come soon; one is asked for at a time */
  probe(now) {
    if (this.#probeBy < Infinity) return;
    this.#probeBy = now + PROBE_TIMEOUT_MS;
    this.#beatAt = now;
  }

  /**
   * @param {import("./messages.js").Message} answer
   * @param {number} now
   */
  answered({ timestamp }, now) {
    if (timestamp === this.#sentAt / 1000) this.roundTripMs = now - this.#sentAt;
  }

  get deadline() { return Math.min(this.#heardAt + this.#timeout, this.#probeBy); }
  get timer() { return Math.min(this.deadline, this.#beatAt); }

  /**
   * @param {number} now
   * @returns {object|null} the heartbeat to send, where one is due
   */
  beat(now) {
    if (now < this.#beatAt) return null;
    this.#beatAt = now + this.#interval;
    this.#sentAt = now;
    return { type: "heartbeat", timestamp: now / 1000 };
  }
}
