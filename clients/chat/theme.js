/** Light, dark, or what the system wants. */
import { $ } from "./elements.js";

const KEY = "wsstream.theme";
const ORDER = ["system", "light", "dark"];

export function setUpTheme() {
  let theme = localStorage.getItem(KEY) ?? "system";
  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").title = `Colours: ${theme}`;
    $("theme").setAttribute("aria-label", `Colours: ${theme}`);
    const ground = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim();
    document.querySelector("meta[name=theme-color]").content = ground;
  };
  $("theme").addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    localStorage.setItem(KEY, theme);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}
