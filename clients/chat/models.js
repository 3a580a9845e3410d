/** Which model is asked: what the server offers, what the demo can do, or whatever is typed. */
import { $, element } from "./elements.js";
import { forAll } from "./storage.js";

const KEY = "wsstream.model";
const PRESETS = ["demo", "demo:rate=200,tokens=2000", "demo:rate=1000,tokens=20000", "demo:rate=5000,tokens=100000"];
/** What each provider answers with by default; the server's own comes first. @type {Map<string, string|undefined>} */
let providers = new Map();
let listed = [];

export async function setUpModels() {
  $("model").value = forAll.get(KEY) ?? "";
  $("model").addEventListener("change", () => forAll.set(KEY, $("model").value.trim()));
  $("provider").addEventListener("change", () => { offer(); $("model").value = names()[0] ?? ""; });
  await askServer();
  $("provider").replaceChildren(...[...providers.keys()].map((value) => element("option", { value }, value)));
  $("provider-field").hidden = providers.size < 2;
  offer();
  $("model").value ||= listed[0] ?? "";
}

/** What is asked for by default needs no name. */
export function chosen() {
  const model = $("model").value.trim();
  const provider = $("provider").value;
  return { ...(model ? { model } : {}), ...(provider && provider !== [...providers.keys()][0] ? { provider } : {}) };
}

/** The models that belong to the provider that is chosen. */
function names() {
  const provider = $("provider").value;
  const own = providers.get(provider);
  return [...new Set([...(own ? [own] : []), ...(provider === [...providers.keys()][0] ? listed : []), ...(provider === "demo" ? PRESETS : [])])];
}

function offer() {
  $("models").replaceChildren(...names().map((value) => element("option", { value })));
}

/** Without an answer one can still type. */
async function askServer() {
  try {
    const response = await fetch(new URL("../../v1/models", import.meta.url), { headers: { Accept: "application/json" } });
    if (!response.ok) return;
    const { data, wsstream } = await response.json();
    listed = data.map(({ id }) => String(id));
    providers = new Map(wsstream.providers.map(({ name, model }) => [name, model]));
  } catch (error) { console.warn("The server does not say what it offers:", error); }
}
