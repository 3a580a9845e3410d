/** Wires the page together. Text reaches it only through text nodes. */
import { Composer } from "./composer.js";
import { announce } from "./announcer.js";
import { Conversation } from "./conversation.js";
import { Drawer } from "./drawer.js";
import { $, copy, say } from "./elements.js";
import { chosen, setUpModels } from "./models.js";
import { painter } from "./paint.js";
import { Recall } from "./recall.js";
import { Scrolling } from "./scrolling.js";
import { Sessions } from "./sessions.js";
import { Sidebar } from "./sidebar.js";
import { publish, subscribe } from "./tabs.js";
import { setUpTheme } from "./theme.js";
import { Watcher } from "./watcher.js";
import { connect, isOffline } from "./wire.js";
import { connectionWords, trouble } from "./words.js";

/** Conversations kept on the page, besides those in which an answer runs. */
const KEPT = 8;
const CONNECTION_MS = 500;

setUpTheme();
setUpModels();
const sessions = new Sessions();
const client = connect(sessions.current);
const recall = new Recall(client);
const watcher = new Watcher(client, changedElsewhere);
const scrolling = new Scrolling($("messages"));
/** @type {Map<string, Conversation>} the one used last comes last */
const open = new Map();
let isLost = false;

const hooks = {
  changed: (conversation) => { if (conversation === current()) refresh(); },
  edit: (conversation, question) => { if (!conversation.running) composer.edit(question); },
  retry: (conversation, question) => {
    if (!question) return;
    conversation.replace(question, question.text, chosen());
    composer.focus();
  },
};

const current = () => open.get(sessions.current);

function show(id) {
  composer.edit(null);
  sessions.open(id);
  const conversation = current() ?? new Conversation(sessions.current, { client, sessions, recall, hooks });
  open.delete(conversation.id);
  open.set(conversation.id, conversation);
  if (!conversation.node.isConnected) $("messages").append(conversation.node);
  for (const other of open.values()) other.node.hidden = other !== conversation;
  if (sessions.find(conversation.id)) conversation.restore();
  for (const other of [...open.values()].slice(0, -KEPT)) if (!other.running) close(other.id);
  scrolling.toEnd();
  refresh();
}

function close(id) {
  open.get(id)?.leave();
  open.delete(id);
}

function refresh() {
  const conversation = current();
  watcher.watch(sessions.find(conversation.id) ? conversation.id : null);
  $("welcome").hidden = !conversation.isEmpty || Boolean(sessions.find(conversation.id));
  composer.running = drawer.running = conversation.running !== null;
  const title = sessions.title();
  say($("title"), title);
  document.title = sessions.find(conversation.id) ? `${title} – wsstream` : "wsstream";
  scrolling.follow();
}

/** @param {string} [model] one of the demo's, whoever else answers here */
function ask(text, model) {
  current().ask(text, model ? { model, provider: "demo" } : chosen());
  scrolling.toEnd();
}

/** A frozen reader would never come to the end. */
function stop() {
  drawer.thaw();
  current().running?.stop();
}

function rename(id, title) {
  if (title === sessions.title(id)) return;
  if (!client.rename(title, id)) return current().notify("Not connected: nothing was renamed.");
  sessions.rename(id, title);
}

/** Gone here at once; the server is told, or the person is. */
function remove(id) {
  if (!confirm(`Delete “${sessions.title(id)}”? It cannot be brought back.`)) return;
  if (!client.deleteSession(id)) return current().notify("Not connected: nothing was deleted.");
  publish("deleted", { id });
  forget(id);
}

function forget(id) {
  close(id);
  sessions.running.delete(id);
  sessions.forget(id);
  if (id === sessions.current) show();
}

/** Said by the server: somebody has changed a conversation, perhaps this very page. */
function changedElsewhere({ session_id: id, title, stream_id: streamId, deleted }) {
  if (deleted) return forgetElsewhere(id);
  if (streamId) discover(id, streamId);
  if (title) sessions.rename(id, title);
}

function forgetElsewhere(id) {
  const title = sessions.find(id)?.title;
  const wasHere = id === sessions.current && title;
  forget(id);
  if (wasHere) current().notify(`“${title}” was deleted elsewhere.`);
}

/** Tabs of this browser are quicker to say so, and know the question. */
function discover(session_id, stream_id) {
  open.get(session_id)?.discover(stream_id).catch((error) => console.warn("An answer that began elsewhere is not shown:", error));
}

/** Once for each loss: not each try, and not the first connection. */
function announceConnection() {
  const before = $("connection").dataset.state;
  if (before === "connected" && client.state !== "connected") announce("The connection is lost.");
  else if (isLost && client.state === "connected") announce("Connected again.");
  else return;
  isLost = client.state !== "connected";
}

function showConnection() {
  announceConnection();
  $("connection").dataset.state = client.state;
  say($("connection-words"), connectionWords(client, isOffline()));
  const why = trouble(client) || (painter.paused ? "The reader is frozen: nothing is shown until it goes on." : "");
  say($("trouble"), why);
  $("trouble").hidden = !why;
  $("reconnect").hidden = isOffline() || (client.state !== "waiting" && client.state !== "stopped");
}

const composer = new Composer({
  send: (text) => ask(text),
  replace: (question, text) => current().replace(question, text, chosen()),
  stop,
  editLast: () => {
    const question = current().messages.findLast(({ role }) => role === "user");
    if (question) composer.edit(question);
  },
});
const sidebar = new Sidebar(sessions, { open: (id) => { show(id); composer.focus(); }, rename, remove });
const drawer = new Drawer(client, {
  stream: () => current().messages.findLast(({ stream }) => stream)?.stream ?? null,
  flood: (model, words) => { if (!current().running) ask(words, model); },
  frozen: showConnection,
});

const shortcuts = new Map([["n", () => { show(); composer.focus(); }], ["k", () => sidebar.search()], ["u", () => drawer.toggle()]]);

addEventListener("keydown", (event) => {
  if ($("shortcuts").open) return;
  const typing = event.target.closest?.("input, textarea, select");
  const shortcut = event.altKey && !event.ctrlKey && (shortcuts.get(event.key.toLowerCase()) ?? shortcuts.get(event.code.slice(-1).toLowerCase()));
  if (shortcut) shortcut();
  // There it empties the field.
  else if (event.key === "Escape" && event.target.id === "search" && event.target.value) return;
  else if (event.key === "Escape" && composer.isEditing) composer.edit(null);
  else if (event.key === "Escape" && drawer.covers && $("drawer").contains(event.target)) drawer.toggle();
  else if (event.key === "Escape") stop();
  else if (event.key === "?" && !typing) $("shortcuts").showModal();
  else return;
  event.preventDefault();
});
$("help").addEventListener("click", () => $("shortcuts").showModal());
$("reconnect").addEventListener("click", () => client.connect());
$("messages").addEventListener("click", ({ target }) => {
  const button = target.closest(".code-head .copy");
  if (!button) return;
  const pieces = [...button.closest(".code").querySelectorAll(".piece")];
  copy(pieces.map((piece, at) => (at && !piece.classList.contains("glued") ? "\n" : "") + piece.textContent).join(""), button);
});
$("starters").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const { ask: words, model, drawer: hood } = button.dataset;
  ask(words, model);
  composer.focus();
  if (hood !== undefined && !drawer.isOpen && !drawer.covers) drawer.toggle({ focus: false });
});
sessions.addEventListener("change", () => { if (current()) refresh(); });
subscribe("started", ({ sessionId, streamId, text }) => open.get(sessionId)?.join(streamId, text));
subscribe("deleted", ({ id }) => forget(id));

client.addEventListener("stateChange", showConnection);
client.addEventListener("error", ({ detail }) => current().notify(detail.message.message));
setInterval(showConnection, CONNECTION_MS);
const painted = painter.onPaint;
painter.onPaint = (due, ms) => { painted(due, ms); scrolling.follow(); };

show(sessions.current);
showConnection();
composer.focus();
