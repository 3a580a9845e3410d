#!/usr/bin/env bash
# Stands in for python:3.x-slim where no registry of images is reached: Debian with its Python, imported as image $1.
# It brings systemd, too, for the unit; and what this machine trusts, so that pip goes the way it goes here.
set -euo pipefail
image=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase \
    --include=ca-certificates,python3,python3-venv,systemd,dbus,libnss-systemd,procps "${SUITE:-bookworm}" "$root" >&2
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
    if [ -e "$file" ]; then cp -L "$file" "$root$file"; fi
done
rm -rf "$root/var/cache/apt/archives" "$root/var/lib/apt/lists"
mkdir -p "$root/var/lib/apt/lists"
tar -C "$root" -c . | podman import --quiet - "$image" >&2
