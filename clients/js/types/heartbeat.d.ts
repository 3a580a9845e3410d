/** Whether the other end is alive. The wire speaks seconds, the client milliseconds. */
export declare class Heartbeat {
    #private;
    /** @type {number|null} of the newest answered heartbeat */
    roundTripMs: number | null;
    /** @param {number} now a connection is being made: nothing is asked of it but that it comes to be in time */
    reset(now: number): void;
    /**
     * @param {import("./messages.js").Message} greeting
     * @param {number} now
     */
    begin({ heartbeat_interval: interval, heartbeat_timeout: timeout }: import("./messages.js").Message, now: number): void;
    /** @param {number} now any message is a sign of life */
    heard(now: number): void;
    /** @param {number} now asks for a sign of life, which is then to come soon; one is asked for at a time */
    probe(now: number): void;
    /**
     * @param {import("./messages.js").Message} answer
     * @param {number} now
     */
    answered({ timestamp }: import("./messages.js").Message, now: number): void;
    get deadline(): number;
    get timer(): number;
    /**
     * @param {number} now
     * @returns {object|null} the heartbeat to send, where one is due
     */
    beat(now: number): object | null;
}
