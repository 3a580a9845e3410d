/** Tells a screen reader when something begins and ends, never each token. */
import { $ } from "./elements.js";

export function announce(words) {
  const region = $("announcer");
  // The same words twice are two events; an unchanged text would not be read out.
  region.textContent = region.textContent === words ? `${words}\u00a0` : words;
}
