/** What the tests of every browser share, whoever drives it. */
export const SHOTS = process.env.WSSTREAM_SHOTS ?? "build/screenshots";

export async function until(what, timeout = 10_000) {
  const end = Date.now() + timeout;
  for (;;) {
    const value = await what();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${timeout} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export const words = (text) => text.split(/\s+/).filter(Boolean).length;
