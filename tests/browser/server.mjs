/** A real server in a process of its own, and a proxy before it that kills connections. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import http from "node:http";
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

/** A port that was free a moment ago. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Stands before a server; `cut` resets every connection that is an upgraded one. */
export class Cutter {
  #pairs = new Set();
  cuts = 0;
  /** WebSockets that were opened through it. */
  upgrades = 0;

  async listen(target) {
    this.server = net.createServer((client) => this.#join(client, net.connect(target, "127.0.0.1")));
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}/`;
    return this;
  }

  #join(client, server) {
    const pair = { client, server, upgraded: false };
    this.#pairs.add(pair);
    client.on("data", (data) => {
      if (pair.upgraded || !/upgrade: websocket/i.test(data.toString("latin1"))) return;
      pair.upgraded = true;
      this.upgrades += 1;
    });
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

/** A proxy of the kind that knows no WebSockets: it takes the upgrade off requests and passes on what is left. */
export class OldProxy {
  #answers = new Set();
  /** Whether event streams are kept back until they end. */
  holdsBack = false;
  cuts = 0; refused = 0; streams = 0;

  async listen(target) {
    this.server = http.createServer((request, response) => this.#pass(target, request, response));
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}/`;
    return this;
  }

  #pass(port, request, response) {
    const { method, url, headers: { upgrade, connection, ...headers } } = request;
    if (upgrade) this.refused += 1;
    const onward = http.request({ host: "127.0.0.1", port, method, path: url, headers });
    onward.on("response", (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      const streams = /event-stream/.test(answer.headers["content-type"]);
      if (streams) this.#note(answer, response);
      if (streams && this.holdsBack) this.#hold(answer, response);
      else answer.pipe(response);
      answer.on("error", () => response.destroy());
    });
    onward.on("error", () => response.destroy());
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  }

  #note(answer, response) {
    this.streams += 1;
    const pair = { answer, response };
    this.#answers.add(pair);
    response.on("close", () => this.#answers.delete(pair));
  }

  #hold(answer, response) {
    const held = [];
    answer.on("data", (data) => held.push(data));
    answer.on("end", () => response.end(Buffer.concat(held)));
  }

  /** Resets every event stream. */
  cut() {
    for (const { answer, response } of [...this.#answers]) { response.socket?.resetAndDestroy(); answer.destroy(); }
    this.cuts += 1;
  }

  end() {
    this.server.closeAllConnections();
    this.server.close();
  }
}
