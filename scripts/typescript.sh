#!/usr/bin/env bash
# Installs the TypeScript compiler into .cache/typescript/VERSION, from npm, for the tests that compile what
# `rowcast generate helper` writes. Nothing is done when it is there already. Prints the path of tsc.js.
# Usage: scripts/typescript.sh
set -euo pipefail

version=5.9.3
# What npm says of this version; a newer one needs both.
sha512=jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw==

cache=$(cd "$(dirname "$0")/.." && pwd)/.cache/typescript
target=$cache/$version
if [ ! -e "$target/lib/tsc.js" ]; then
  for tool in npm node tar; do
    command -v "$tool" >/dev/null || { echo "typescript.sh: $tool is needed (apt-get install npm)" >&2; exit 1; }
  done
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.new-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack "typescript@$version" --silent >/dev/null 2>&1) \
    || { echo "typescript.sh: could not fetch typescript@$version" >&2; exit 1; }
  found=$(node -e '
    const file = require("fs").readFileSync(process.argv[1]);
    console.log(require("crypto").createHash("sha512").update(file).digest("base64"));' "$work"/*.tgz)
  [ "$found" = "$sha512" ] || { echo "typescript.sh: typescript@$version is not the file it was: sha512 $found" >&2; exit 1; }
  tar -xzf "$work"/*.tgz -C "$work"
  # Somebody else may have been faster: theirs is as good.
  mv -T "$work/package" "$target" 2>/dev/null || [ -e "$target/lib/tsc.js" ]
fi
echo "$target/lib/tsc.js"
