/** Wires the page to the client. Text reaches the page only through text nodes. */
import { StreamClient } from "../js/wsstream.js";

const SESSION_KEY = "wsstream.session";
/** A window that is covered or drawn slowly may get no animation frame; acks must not wait for one. */
const DRAW_AT_LATEST_MS = 150;
const RATE_SAMPLES = 8;
const SAMPLE_MS = 250;
const CLOSED_BECAUSE = {
  3000: "Signed out", 3003: "Not allowed", 4406: "Server and page speak different versions: reload",
  4409: "Taken over by another tab", 1008: "Refused by the server", 4400: "Protocol error",
};

const $ = (id) => document.getElementById(id);
const address = new URL("/ws", location.href);
address.protocol = address.protocol.replace("http", "ws");
const client = new StreamClient(address.href, { sessionId: sessionStorage.getItem(SESSION_KEY) ?? undefined, maxTries: 10 });

const dirty = new Set();
/** @type {Answer[]} */
const answers = [];
let frozen = false;
let restored = false;
let frame = 0;
let timer = 0;

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.append(document.createTextNode(text));
  return made;
}

function addMessage(role, text) {
  $("empty").hidden = true;
  const message = element("article", `message ${role}`);
  message.append(element("div", "body", text), element("p", "note"));
  $("messages").append(message);
  return message;
}

/** One answer on the page. */
class Answer {
  constructor(stream) {
    this.stream = stream;
    this.message = addMessage("assistant", "");
    this.message.ariaBusy = "true";
    this.words = this.message.querySelector(".body").firstChild;
    stream.addEventListener("change", () => redraw(this));
    stream.addEventListener("rewind", () => { this.stale = true; });
    stream.addEventListener("status", ({ detail }) => this.note(detail.message.message));
    stream.addEventListener("end", () => this.end());
    this.note("Waiting for the first words…");
    redraw(this);
  }

  draw() {
    const { stream, words } = this;
    if (this.stale) words.data = stream.text;
    else words.appendData(stream.text.slice(words.length));
    this.stale = false;
    this.caption();
    stream.rendered(stream.lastChunkId);
  }

  caption() {
    const { info, outcome } = this.stream;
    if (outcome) this.note(...describe(outcome));
    else if (info.position) this.note(`In the queue, place ${info.position}`);
    else if (info.cancelled) this.note("Stopping…");
    else if (info.received !== this.shown) this.note("");
    this.shown = info.received;
  }

  note(text, className = "note") {
    const note = this.message.querySelector(".note");
    note.textContent = text;
    note.className = className;
  }

  end() {
    this.message.ariaBusy = "false";
    redraw(this);
    refresh();
  }
}

function describe(outcome) {
  if (!outcome.ok) return [`${outcome.message}${outcome.retry_after ? ` Try again in ${Math.ceil(outcome.retry_after)} s.` : ""}`, "note bad"];
  const { finish_reason, usage, ttft_ms, tokens_per_second } = outcome;
  const parts = [finish_reason === "cancelled" ? "stopped" : finish_reason];
  if (usage?.output_tokens) parts.push(`${usage.output_tokens} tokens`);
  if (ttft_ms !== undefined) parts.push(`first after ${Math.round(ttft_ms)} ms`);
  if (tokens_per_second) parts.push(`${Math.round(tokens_per_second)} tokens/s`);
  return [parts.join(" · ")];
}

/** A hidden page gets no frames and its timers come as rarely as once a minute; messages do come, so it draws with them. */
function redraw(answer) {
  dirty.add(answer);
  if (frozen) return;
  if (document.hidden) return drawAll();
  frame ||= requestAnimationFrame(drawAll);
  timer ||= setTimeout(drawAll, DRAW_AT_LATEST_MS);
}

function drawAll() {
  cancelAnimationFrame(frame);
  clearTimeout(timer);
  frame = timer = 0;
  if (frozen) return;
  const list = $("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  const due = [...dirty];
  dirty.clear();
  for (const answer of due) answer.draw();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function show(stream) {
  answers.push(new Answer(stream));
  $("messages").scrollTop = $("messages").scrollHeight;
  refresh();
}

/** After a reload: what was said, and the answer that still runs from where the history ends. */
function restore({ messages, title }) {
  entitle(title);
  if (restored || answers.length) return;
  restored = true;
  for (const { role, content, is_complete, stream_id, last_chunk_id } of messages) {
    const text = typeof content === "string" ? content : content.map((part) => part.text ?? "").join("");
    if (last_chunk_id !== undefined) show(client.follow(stream_id, { lastChunkId: last_chunk_id, text }));
    else addMessage(role, text).querySelector(".note").textContent = is_complete ? "" : "not complete";
  }
  $("messages").scrollTop = $("messages").scrollHeight;
}

function entitle(title) {
  document.title = title ? `${title} – wsstream` : "wsstream";
}

/** Another tab has renamed or deleted the conversation. */
function change({ title, deleted }) {
  if (!deleted) return entitle(title);
  entitle();
  for (const message of document.querySelectorAll("#messages .message")) message.remove();
  $("empty").hidden = false;
}

function send() {
  const content = $("prompt").value.trim();
  if (!content) return;
  $("prompt").value = "";
  addMessage("user", content);
  show(client.chat(content, { model: $("model").value.trim() || "demo" }));
}

const latest = () => answers.at(-1)?.stream;
const running = () => latest() && !latest().outcome;
const totalChunks = () => answers.reduce((sum, { stream }) => sum + stream.lastChunkId, 0);
/** @type {[number, number][]} */
const samples = [];

function chunksPerSecond() {
  samples.push([performance.now(), totalChunks()]);
  if (samples.length > RATE_SAMPLES) samples.shift();
  const [from, before] = samples[0];
  const [to, after] = samples.at(-1);
  return to > from ? (after - before) / (to - from) * 1000 : 0;
}

function refresh() {
  const { inFlight = 0, window = 50, received = 0, resumes = 0 } = latest()?.info ?? {};
  $("gauge").max = window;
  $("gauge").value = inFlight;
  $("gauge").className = inFlight >= window ? "full" : "";
  $("inflight").textContent = `${inFlight} / ${window}`;
  $("last").textContent = received;
  $("received").textContent = totalChunks();
  $("resumes").textContent = resumes;
  $("send").textContent = running() ? "Stop" : "Send";
  $("drop").disabled = client.state !== "connected";
}

function showConnection() {
  const texts = {
    idle: "Not connected", connecting: "Connecting…", connected: "Connected",
    waiting: `Reconnecting in ${Math.ceil(client.retryInMs / 1000)} s…`,
    stopped: CLOSED_BECAUSE[client.session.closeCode] ?? "Disconnected",
  };
  $("connection").dataset.state = client.state;
  // A live region is read out on every write, changed or not.
  if ($("connection").textContent !== texts[client.state]) $("connection").textContent = texts[client.state];
  $("reconnect").hidden = client.state !== "waiting" && client.state !== "stopped";
}

function freeze() {
  frozen = !frozen;
  $("freeze").setAttribute("aria-pressed", String(frozen));
  $("freeze").textContent = frozen ? "Let the reader go on" : "Freeze the reader";
  if (!frozen) drawAll();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running()) latest().cancel();
  else send();
  refresh();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running()) $("composer").requestSubmit();
});
$("drop").addEventListener("click", () => client.drop());
$("freeze").addEventListener("click", freeze);
$("reconnect").addEventListener("click", () => client.connect());
addEventListener("online", () => { if (client.state === "waiting") client.connect(); });
document.addEventListener("visibilitychange", () => { if (document.hidden) drawAll(); });

client.addEventListener("state", showConnection);
client.addEventListener("session", ({ detail }) => sessionStorage.setItem(SESSION_KEY, detail.sessionId));
client.addEventListener("session", () => { if (!restored) client.askHistory(); });
client.addEventListener("history", ({ detail }) => restore(detail.message));
client.addEventListener("session_changed", ({ detail }) => change(detail.message));
client.addEventListener("error", ({ detail }) => addMessage("notice", detail.message.message));
setInterval(() => {
  $("rate").textContent = Math.round(chunksPerSecond());
  refresh();
  showConnection();
}, SAMPLE_MS);
client.connect();
