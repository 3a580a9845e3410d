#!/usr/bin/env bash
# Fetches the vendored libraries from npm at the versions below, copies the files as they are, and writes README.md.
set -euo pipefail
cd "$(dirname "$0")"

MARKED=18.2.1
HIGHLIGHT=11.12.0
LANGUAGES="bash c cpp css diff go java javascript json markdown python rust sql typescript xml yaml"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fetch() { # package version
  mkdir -p "$scratch/$1"
  (cd "$scratch" && npm pack --silent "$1@$2" | xargs -I{} tar -xzf {} -C "$scratch/$1" --strip-components=1)
}

fetch marked "$MARKED"
fetch @highlightjs/cdn-assets "$HIGHLIGHT"

rm -rf marked highlight
mkdir -p marked highlight/languages
cp "$scratch/marked/lib/marked.esm.js" "$scratch/marked/LICENSE" marked/
sed -i '/^\/\/# sourceMappingURL=/d' marked/marked.esm.js
cp "$scratch/@highlightjs/cdn-assets/es/core.min.js" "$scratch/@highlightjs/cdn-assets/LICENSE" highlight/
for language in $LANGUAGES; do
  cp "$scratch/@highlightjs/cdn-assets/es/languages/$language.min.js" highlight/languages/
done

{
  echo "# Vendored libraries"
  echo
  echo "Copied unchanged from npm by \`update.sh\` (marked without the line that names its source map). The licences lie"
  echo "beside them. Nothing is built, and no page loads anything from another host."
  echo
  echo "| library | version | licence | from |"
  echo "|---|---|---|---|"
  echo "| marked | $MARKED | MIT | npm \`marked\`, \`lib/marked.esm.js\` |"
  echo "| highlight.js | $HIGHLIGHT | BSD-3-Clause | npm \`@highlightjs/cdn-assets\`, \`es/\` |"
  echo
  echo "| sha256 | file |"
  echo "|---|---|"
  find marked highlight -type f | LC_ALL=C sort | xargs sha256sum | sed -E 's/^([0-9a-f]+) +(.*)$/| `\1` | `\2` |/'
} > README.md
