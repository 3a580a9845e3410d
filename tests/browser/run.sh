#!/usr/bin/env bash
# Runs what needs real browsers: `run.sh test`, `bench`, `images` for the pictures of the docs, or `look URL` at a page
# that is served already. Installs what is missing where it may; else it says what is not run, and that is no failure.
# Each browser is tried by itself: where one is missing, the others are not.
set -euo pipefail
cd "$(dirname "$0")/../.."

PLAYWRIGHT=1.65.1
AXE=4.14.1
PUPPETEER=24.43.1

skip() { echo "no $1 here: $2 did not run${3:+ ($3)}"; }

what="${1:-test}"
command -v node >/dev/null || { skip node "the browser $what"; exit 0; }
if [ -n "${CHROMIUM:-}" ] && ! command -v "$CHROMIUM" >/dev/null; then
  echo "CHROMIUM names $CHROMIUM, which is not there" >&2
  exit 2
fi
find_chromium() { CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"; }
find_chromium
if [ -z "$CHROMIUM" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing Debian's Chromium"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 </dev/null || true
  find_chromium
fi

cache="${XDG_CACHE_HOME:-$HOME/.cache}/wsstream-browser-$PLAYWRIGHT-$AXE-$PUPPETEER"
if [ ! -f "$cache/installed" ] && mkdir -p "$cache" && npm install --prefix "$cache" --no-save --no-audit --no-fund --loglevel=error \
    "playwright-core@$PLAYWRIGHT" "axe-core@$AXE" "puppeteer-core@$PUPPETEER" >/dev/null 2>&1; then
  touch "$cache/installed"
fi

export CHROMIUM WSSTREAM_BROWSER_MODULES="$cache" PYTHON="${PYTHON:-$PWD/.venv/bin/python}"

# Whether there is what nearly everything is done with: a Chromium, and what drives it.
in_chromium() {
  if [ -z "$CHROMIUM" ]; then
    skip Chromium "$1" "install it, or name one in CHROMIUM; where this runs as root and apt-get works, it is installed"
  elif [ ! -f "$cache/installed" ]; then
    skip "playwright-core (npm)" "$1"
  else
    return 0
  fi
  return 1
}

case "$what" in
  test)
    tests=(tests/browser/*.test.mjs)
    # The one that looks for its browsers by itself.
    in_chromium "what is tried in headless Chromium" || tests=(tests/browser/engines.test.mjs)
    node --test --test-concurrency=1 --test-reporter=spec "${tests[@]}" ;;
  bench) if in_chromium "the browser bench"; then node benchmarks/browser.mjs; fi ;;
  images) if in_chromium "what takes the pictures"; then node tests/browser/images.mjs; fi ;;
  look) if in_chromium "the look"; then node tests/browser/look.mjs "$2"; fi ;;
  *) echo "run.sh test | bench | images | look URL" >&2; exit 2 ;;
esac
