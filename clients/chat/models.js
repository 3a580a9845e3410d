/** Which model is asked: what the server offers, what the demo can do, or whatever is typed. */
import { $, element } from "./elements.js";

const KEY = "wsstream.model";
const PRESETS = ["demo", "demo:rate=200,tokens=2000", "demo:rate=1000,tokens=20000", "demo:rate=5000,tokens=100000"];

export function setUpModels() {
  $("model").value = localStorage.getItem(KEY) || "demo";
  $("model").addEventListener("change", () => localStorage.setItem(KEY, $("model").value.trim()));
  offer(PRESETS);
  askServer();
}

export function chosen() {
  const model = $("model").value.trim();
  const provider = $("provider").value;
  return { ...(model ? { model } : {}), ...(provider ? { provider } : {}) };
}

function offer(names) {
  $("models").replaceChildren(...[...new Set(names)].map((value) => element("option", { value })));
}

/** Not every server lists its models. */
async function askServer() {
  let list;
  try {
    const response = await fetch("/v1/models", { headers: { Accept: "application/json" } });
    if (!response.ok) return;
    list = (await response.json()).data;
  } catch { return; }
  if (!Array.isArray(list)) return;
  offer([...list.map(({ id }) => String(id)), ...PRESETS]);
  const providers = [...new Set(list.map((one) => one.provider).filter((name) => typeof name === "string"))];
  if (providers.length < 2) return;
  $("provider").replaceChildren(element("option", { value: "" }, "default"), ...providers.map((value) => element("option", { value }, value)));
  $("provider-field").hidden = false;
}
