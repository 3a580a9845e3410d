#!/bin/sh
# Other people's clients against this server: tests/thirdparty/run.sh [conformance]
# Needs npm and the project's environment; installs pinned packages into a scratch folder and leaves nothing running.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
scratch=${WSSTREAM_SCRATCH:-$(mktemp -d)}
export PYTHONPATH="$root"

cp "$here/package.json" "$here"/*.mjs "$scratch"
(cd "$scratch" && npm install --silent --no-audit --no-fund --no-package-lock)
node="$scratch/node_modules/node/bin/node"
[ -x "$node" ] || node=node

# The Durable Streams suite asks as a page of that origin.
"$python" -m wsstream --port 0 --provider demo --store "${WSSTREAM_STORE:-memory:}" --log-level error \
    --allowed-origins https://example.com >"$scratch/server.txt" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
tries=0
until url=$(grep -so 'http://[^ ]*' "$scratch/server.txt"); do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { echo "the server did not start" >&2; exit 1; }
    sleep 0.1
done

echo "== openai ($("$python" -c 'import openai; print(openai.__version__)')), Python"
"$python" -m pytest -q "$root/tests/wires/test_openai_api.py"
echo "== @ai-sdk/openai-compatible"
(cd "$scratch" && "$node" ai_sdk.mjs "$url")
echo "== @durable-streams/client"
(cd "$scratch" && "$node" durable_client.mjs "$url")
if [ "${1:-}" = conformance ]; then
    # Two tests of the suite wait for the end of a long poll, which takes 20 seconds here.
    echo "== @durable-streams/server-conformance-tests"
    (cd "$scratch" && NO_COLOR=1 WSSTREAM_URL="${url%/}" "$node" node_modules/vitest/vitest.mjs run conformance.test.mjs \
        --testTimeout 40000)
fi
