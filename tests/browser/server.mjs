/** A real server in a process of its own, and a proxy before it that kills connections. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const ROOT = new URL("../..", import.meta.url).pathname;
const PYTHON = process.env.PYTHON ?? join(ROOT, ".venv/bin/python");

export class Server {
  #folder = mkdtempSync(join(tmpdir(), "wsstream-browser-"));
  #process; port = 0;

  /** @param {string[]} flags of `wsstream serve` */
  constructor(...flags) { this.flags = flags; }

  get url() { return `http://127.0.0.1:${this.port}/`; }

  async start() {
    const store = `sqlite:${join(this.#folder, "store.db")}`;
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(WSSTREAM_|OPENAI_)/.test(name)));
    this.#process = spawn(PYTHON, ["-m", "wsstream", "--port", String(this.port), "--store", store, "--provider", "demo", ...this.flags],
      { cwd: ROOT, env: { ...environment, PYTHONPATH: ROOT }, stdio: ["ignore", "pipe", "ignore"] });
    for await (const line of createInterface(this.#process.stdout)) {
      const ready = / is ready: http:\/\/[^:]+:(\d+)\//.exec(line);
      if (ready) { this.port = Number(ready[1]); return this; }
    }
    throw new Error("The server did not start.");
  }

  async stop(signal = "SIGKILL") {
    const gone = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill(signal);
    await gone;
  }

  async end() {
    if (this.#process.exitCode === null && this.#process.signalCode === null) await this.stop();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Stands before a server; `cut` resets every connection that is an upgraded one. */
export class Cutter {
  #pairs = new Set();
  cuts = 0;

  async listen(target) {
    this.server = net.createServer((client) => this.#join(client, net.connect(target, "127.0.0.1")));
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}/`;
    return this;
  }

  #join(client, server) {
    const pair = { client, server, upgraded: false };
    this.#pairs.add(pair);
    client.on("data", (data) => { pair.upgraded ||= data.includes("Upgrade: websocket"); });
    for (const [from, to] of [[client, server], [server, client]]) {
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => { to.destroy(); this.#pairs.delete(pair); });
    }
  }

  cut() {
    const victims = [...this.#pairs].filter(({ upgraded }) => upgraded);
    for (const { client, server } of victims) { client.resetAndDestroy(); server.destroy(); }
    if (victims.length) this.cuts += 1;
    return victims.length;
  }

  end() {
    for (const { client } of this.#pairs) client.destroy();
    this.server.close();
  }
}
