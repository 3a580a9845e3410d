/** Light, dark, or what the system wants. */
import { $ } from "./elements.js";
import { forAll } from "./storage.js";

const KEY = "wsstream.theme";
const wantsDark = matchMedia("(prefers-color-scheme: dark)");

/** First what is not to be seen already, so that every other press changes something, the first one too. */
const order = () => (wantsDark.matches ? ["system", "light", "dark"] : ["system", "dark", "light"]);

export function setUpTheme() {
  let theme = forAll.get(KEY) ?? "system";
  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").title = `Colours: ${theme}`;
    $("theme").setAttribute("aria-label", `Colours: ${theme}`);
    const ground = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim();
    document.querySelector("meta[name=theme-color]").content = ground;
  };
  $("theme").addEventListener("click", () => {
    theme = order()[(order().indexOf(theme) + 1) % 3];
    forAll.set(KEY, theme);
    apply();
  });
  wantsDark.addEventListener("change", apply);
  apply();
}
