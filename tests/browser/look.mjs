/** Opens the page of a server that runs, asks, and takes a picture: tests/browser/run.sh look URL. Fails on any fault. */
import assert from "node:assert/strict";
import { answer, ask, finished, launch, shot, shownText, visit } from "./harness.mjs";

const browser = await launch();
try {
  const page = await visit(browser, process.argv[2]);
  await ask(page, "Show me code for a stream reader");
  await finished(page);
  await answer(page).locator(".hl-keyword").first().waitFor();
  assert.match(await shownText(page), /small reader for server-sent events/);
  await shot(page, "installed");
  assert.deepEqual(page.faults, []);
  console.log("the page answers");
} finally {
  await browser.close();
}
