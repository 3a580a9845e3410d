#!/usr/bin/env bash
# Runs what needs real browsers: `run.sh test`, `bench`, `images` for the pictures of the docs, or `look URL` at a page
# that is served already. Installs what is missing where it may; else it says what is not run, and that is no failure.
set -euo pipefail
cd "$(dirname "$0")/../.."

PLAYWRIGHT=1.65.1
AXE=4.14.1
PUPPETEER=24.43.1

skip() { echo "no $1 here: the browser $2 did not run${3:+ ($3)}"; exit 0; }

what="${1:-test}"
command -v node >/dev/null || skip node "$what"
find_chromium() { CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"; }
find_chromium
if [ -z "$CHROMIUM" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing Debian's Chromium"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 </dev/null || true
  find_chromium
fi
[ -n "$CHROMIUM" ] || skip Chromium "$what" "install it, or name one in CHROMIUM; where this runs as root and apt-get works, it is installed"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/wsstream-browser-$PLAYWRIGHT-$AXE-$PUPPETEER"
if [ ! -f "$cache/installed" ]; then
  mkdir -p "$cache"
  npm install --prefix "$cache" --no-save --no-audit --no-fund --loglevel=error \
    "playwright-core@$PLAYWRIGHT" "axe-core@$AXE" "puppeteer-core@$PUPPETEER" >/dev/null 2>&1 || skip "playwright-core (npm)" "$what"
  touch "$cache/installed"
fi

export CHROMIUM WSSTREAM_BROWSER_MODULES="$cache" PYTHON="${PYTHON:-$PWD/.venv/bin/python}"
case "$what" in
  test) node --test --test-concurrency=1 --test-reporter=spec tests/browser/*.test.mjs ;;
  bench) node benchmarks/browser.mjs ;;
  images) node tests/browser/images.mjs ;;
  look) node tests/browser/look.mjs "$2" ;;
  *) echo "run.sh test | bench | images | look URL" >&2; exit 2 ;;
esac
