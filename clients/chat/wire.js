/** The page's connection. Its transport can be taken away on purpose, and says what passes over it. */
import { sse } from "../js/sse_transport.js";
import { StreamClient, webSocket } from "../js/wsstream.js";

const OFFLINE_MS = 5_000;
/** A page acknowledges after a paint: at 5,000 tokens a second, two frames are 170 of them. It is widened where it must. */
export const WINDOW = 200;
// Not from the root: a proxy may have the whole server under a path.
const address = new URL("../../ws", import.meta.url);
address.protocol = address.protocol.replace("http", "ws");

/** What passes, for whoever draws it: `came`, `acked`, `lost`. */
export const passing = new EventTarget();
let offline = false;

function tell(type, detail) { passing.dispatchEvent(Object.assign(new Event(type), { detail })); }

/** A transport whose messages are looked at in passing. */
function watched(factory) {
  const make = (url, context) => {
    if (offline) throw new Error("Offline on purpose.");
    const transport = factory(url, context);
    const send = transport.send.bind(transport);
    transport.send = (text) => {
      if (text.includes('"chunk_ack"')) tell("acked", JSON.parse(text));
      send(text);
    };
    return transport;
  };
  return Object.assign(make, { label: factory.label });
}

export function connect(sessionId) {
  const client = new StreamClient(address.href, { sessionId, window: WINDOW, maxTries: 10, transports: [webSocket, sse].map(watched) });
  client.addEventListener("connectionLost", () => tell("lost", {}));
  client.connect();
  return client;
}

/** A second connection, over which nothing is asked: servers tell what becomes of a session to its own connections. */
export function listen(sessionId) {
  const client = new StreamClient(address.href, { sessionId, transports: [webSocket] });
  client.connect();
  return client;
}

export const isOffline = () => offline;

/** As if the network were gone for a while. */
export function goOffline(client) {
  if (offline) return;
  offline = true;
  client.drop();
  setTimeout(() => {
    offline = false;
    client.connect();
  }, OFFLINE_MS);
}

/** @param {number} chunks how many this piece holds */
export function came(stream, chunks) { tell("came", { stream, chunks }); }
