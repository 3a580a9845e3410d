/**
 * Takes the pictures of the documentation anew: tests/browser/run.sh images. With the fonts Inter and Noto Color Emoji
 * they look as they do for most people.
 */
import { answer, ask, finished, launch, letters, until, visit } from "./harness.mjs";
import { Server } from "./server.mjs";

const FOLDER = "docs/images";
const shot = (page, name) => page.screenshot({ path: `${FOLDER}/${name}.png` });

/** A page that was used before. */
async function used(options) {
  const page = await visit(browser, server.url, options);
  for (const question of ["Say hello in many languages", "What is a resume?"]) {
    await ask(page, question, "demo:rate=0,tokens=20");
    await finished(page);
    await page.click("#new");
  }
  await page.fill("#model", "demo");
  return page;
}

/** @param {(page: object) => Promise<void>} show what the picture is to have */
async function take(name, options, show) {
  const page = await used(options);
  await show(page);
  await page.locator("#prompt").blur();
  await page.mouse.move(640, 20);
  await page.waitForTimeout(200);
  await shot(page, name);
  await page.context().close();
}

const server = await new Server().start();
const browser = await launch();
try {
  await take("page-light", {}, async (page) => {
    await ask(page, "Show me code for a stream reader");
    await finished(page);
    await answer(page).locator(".hl-keyword").nth(3).waitFor();
    await page.locator("#messages").evaluate((node) => { node.scrollTop = 0; });
    await page.locator("#to-end").evaluate((button) => { button.hidden = true; });
  });
  await take("page-dark", { colorScheme: "dark" }, async (page) => {
    await ask(page, "How does a credit window work?");
    await finished(page);
    await page.locator("#messages").evaluate((node) => { node.scrollTop = 0; });
    await page.waitForTimeout(300);
  });
  await take("page-drawer", {}, async (page) => {
    await page.click("#show-drawer");
    await ask(page, "How does a credit window work?");
    await until(async () => (await letters(page)) > 230);
    await page.click("#drop");
    await until(async () => (await letters(page)) > 560);
  });
} finally {
  await browser.close();
  await server.end();
}
