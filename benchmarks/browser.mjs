/**
 * What the page costs in a real Chromium, and whether it keeps its promises there: `make bench-browser`.
 *
 *   acks    how many a second, at 30 to 5,000 tokens a second
 *   flood   100,000 tokens at 2,000 a second: every letter, long tasks, script per frame, memory afterwards
 *   stop    100,000 tokens at 5,000 a second, stopped in the middle
 *   cuts    one answer over 50 killed connections
 *
 * PARTS=acks,stop runs some of them only. Figures are of this machine, with Chromium's software rendering; all cores it has are shared with the server.
 */
import { ask, answer, finished, launch, letters, until, visit } from "../tests/browser/harness.mjs";
import { Cutter, Server } from "../tests/browser/server.mjs";

const TOKENS = Number(process.env.TOKENS ?? 100_000);
const CUTS = Number(process.env.CUTS ?? 50);
const SETTLED_MS = 5_000;
const parts = new Set((process.env.PARTS ?? "acks,flood,stop,cuts").split(","));
const failures = [];

function report(name, value, limit = "", holds = true) {
  console.log(`${holds ? "  " : "! "}${name.padEnd(46)} ${String(value).padStart(14)}  ${limit}`);
  if (!holds) failures.push(name);
}

const percentile = (values, share) => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;

/** Counts long tasks and the script time of frames, and watches what is taken out of the document. */
async function measure(page) {
  await page.evaluate(() => {
    const seen = { tasks: [], frames: [], removed: 0, from: performance.now() };
    window.seen = seen;
    new PerformanceObserver((list) => { for (const { duration, startTime } of list.getEntries()) seen.tasks.push([startTime - seen.from, duration]); }).observe({ type: "longtask" });
    // All that a frame's callbacks do, and nothing of what the browser does with it.
    const ask = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (call) => ask((now) => {
      const from = performance.now();
      call(now);
      seen.frames.push(performance.now() - from);
    });
    const stays = new WeakSet();
    new MutationObserver((records) => {
      for (const { removedNodes } of records) for (const node of removedNodes) if (stays.has(node)) seen.removed += 1;
      for (const body of document.querySelectorAll(".answer.main")) for (let node = body.lastElementChild?.previousElementSibling?.previousElementSibling; node && !stays.has(node); node = node.previousElementSibling) stays.add(node);
    }).observe(document.getElementById("messages"), { childList: true, subtree: true });
  });
}

const heap = async (page) => {
  const session = await page.context().newCDPSession(page);
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  await session.detach();
  return usedSize / 2 ** 20;
};

/** The words that the page shows, and those that the server's history has. */
async function compare(page) {
  const shown = await answer(page).locator(".answer.main").evaluate((node) => [...node.children].map((block) => block.textContent).join(" "));
  const id = await page.evaluate(() => sessionStorage.getItem("wsstream.session"));
  const log = await page.evaluate(async (id) => {
    const { StreamClient } = await import("/static/js/wsstream.js");
    const client = new StreamClient(new URL("/ws", location.href.replace("http", "ws")), {});
    client.connect();
    const { messages } = await client.history(id);
    client.close();
    return messages.at(-1).content;
  }, id);
  await answer(page).locator(".foot .tools button").first().evaluate((button) => button.click());
  const text = await until(() => page.evaluate(() => navigator.clipboard.readText()));
  const words = (string) => string.split(/\s+/).filter(Boolean).join(" ");
  return { same: text === log, visible: words(shown) === words(log), letters: log.length };
}

const ACKS = 21;

/** Counts acks as they leave: the most of any second, over all that the page says from now on. */
function countAcks(page) {
  const acks = [];
  page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => { if (String(payload).includes('"chunk_ack"')) acks.push(performance.now()); }));
  return () => Math.max(0, ...acks.map((from) => acks.filter((at) => at >= from && at < from + 1000).length));
}

/** How many acks a second the page needs at several paces, and whether it keeps up. */
async function acks(browser, server) {
  console.log("acks: of the page, at several paces");
  for (const rate of [30, 500, 2_000, 5_000]) {
    const page = await visit(browser, server.url);
    const most = countAcks(page);
    await page.reload();
    await ask(page, "go", `demo:rate=${rate},tokens=${rate * 5}`);
    const from = Date.now();
    await finished(page, 60_000);
    const seconds = (Date.now() - from) / 1000;
    report(`acks in the fullest second at ${rate} tokens/s`, most(), `<= ${ACKS}`, most() > 0 && most() <= ACKS);
    report("  tokens a second", Math.round(rate * 5 / seconds));
    await page.context().close();
  }
}

async function flood(browser, server) {
  console.log(`flood: ${TOKENS} tokens at 2,000 a second`);
  const page = await visit(browser, server.url);
  await measure(page);
  const before = await heap(page);
  const from = Date.now();
  await ask(page, "go", `demo:rate=2000,tokens=${TOKENS}`);
  await finished(page, TOKENS + 60_000);
  const seconds = (Date.now() - from) / 1000;
  const { tasks, frames, removed } = await page.evaluate(() => window.seen);
  const late = tasks.filter(([at]) => at > 1000).map(([, ms]) => ms);
  const { same, visible, letters } = await compare(page);
  report("tokens a second", Math.round(TOKENS / seconds));
  report("letters as in the log", letters, "byte-identical", same);
  report("words in the document", visible ? "all" : "not all", "", visible);
  report("tasks over 50 ms after the first second", late.length, "0", late.length === 0);
  report("longest task, ms", Math.max(0, ...late).toFixed(0), "(over 50 only)");
  report("script per frame p50 / p95 / max, ms", [.5, .95, 1].map((share) => percentile(frames, share).toFixed(1)).join(" / "), "p95 <= 17", percentile(frames, .95) <= 17);
  report("blocks that stood and were taken away", removed, "0", removed === 0);
  const after = await heap(page);
  await page.waitForTimeout(SETTLED_MS);
  const settled = await heap(page);
  report("heap before / after / 5 s later, MiB", [before, after, settled].map((size) => size.toFixed(1)).join(" / "), "flat", settled - after < 1);
  await page.context().close();
}

async function stop(browser, server) {
  console.log("stop: in 100,000 tokens at 5,000 a second");
  const times = [];
  for (let run = 0; run < 5; run += 1) {
    const page = await visit(browser, server.url);
    await measure(page);
    await ask(page, "go", "demo:rate=5000,tokens=100000");
    await until(async () => (await letters(page)) > 60_000, 30_000);
    if (run === 0) {
      const rate = await page.evaluate(async () => {
        const shown = () => document.querySelector(".answer.main").textContent.length;
        const [before, from] = [shown(), performance.now()];
        await new Promise((resolve) => setTimeout(resolve, 2000));
        return (shown() - before) / (performance.now() - from) * 1000 / 5.1;
      });
      report("tokens a second before it", `~${Math.round(rate)}`);
    }
    await page.keyboard.press("Escape");
    await finished(page);
    times.push(Number(await answer(page).getAttribute("data-stop-ms")));
    await page.context().close();
  }
  report("Stop to the end, ms", times.map((ms) => ms.toFixed(0)).join(" "), "<= 100", Math.max(...times) <= 100);
}

async function cuts(browser, server) {
  console.log(`cuts: one answer over ${CUTS} killed connections`);
  const cutter = await new Cutter().listen(server.port);
  const page = await visit(browser, cutter.url);
  await measure(page);
  await page.click("#show-drawer");
  await ask(page, "go", "demo:rate=400,tokens=20000,seed=3");
  const state = () => page.locator("#connection").getAttribute("data-state");
  while (cutter.cuts < CUTS) {
    const before = Number((await page.locator("#f-last").textContent()).replaceAll(",", ""));
    await until(async () => await state() === "connected" && Number((await page.locator("#f-last").textContent()).replaceAll(",", "")) > before + 20, 30_000);
    cutter.cut();
    await until(async () => {
      // It may be back before anybody has looked: what counts is that it has resumed.
      if (await state() !== "connected") await page.evaluate(() => document.getElementById("reconnect").click());
      return Number(await page.locator("#f-resumes").textContent()) >= cutter.cuts;
    }, 30_000);
  }
  const resumes = await until(async () => Number(await page.locator("#f-resumes").textContent()));
  await finished(page, 120_000);
  const { removed } = await page.evaluate(() => window.seen);
  const { same, visible, letters } = await compare(page);
  report("connections killed / resumed", `${cutter.cuts} / ${resumes}`);
  report("letters as in the log", letters, "byte-identical", same);
  report("words in the document", visible ? "all" : "not all", "", visible);
  report("blocks that stood and were taken away", removed, "0", removed === 0);
  await page.context().close();
  cutter.end();
}

const server = await new Server().start();
const browser = await launch();
try {
  console.log(`Chromium ${browser.version()}, ${process.version}`);
  if (parts.has("acks")) await acks(browser, server);
  if (parts.has("flood")) await flood(browser, server);
  if (parts.has("stop")) await stop(browser, server);
  if (parts.has("cuts")) await cuts(browser, server);
} finally {
  await browser.close();
  await server.end();
}
if (failures.length) {
  console.log(`does not hold: ${failures.join("; ")}`);
  process.exitCode = 1;
}
