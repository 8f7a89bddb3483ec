#!/usr/bin/env bash
# Holds the shape of the code that docs/architecture.md promises: short files, pure crates, and
# dependencies that point one way. Prints every place that breaks it.
set -euo pipefail
cd "$(dirname "$0")/.."

most=600
bad=0
complain() {
  printf 'shape: %s\n' "$1" >&2
  bad=1
}

# One idea a file.
while read -r lines file; do
  complain "$file has $lines lines, at most $most"
done < <(find crates tests sql -name target -prune -o \( -name '*.rs' -o -name '*.sql' -o -name '*.js' -o -name '*.ts' \) -type f \
  -exec wc -l {} + | awk -v most=$most '$2 != "total" && $1 > most {print $1, $2}')

# Decisions know neither IO nor clock.
while read -r place; do
  complain "IO or a clock in a pure crate: $place"
done < <(grep -rnE '\b(tokio|SystemTime|Instant|UdpSocket|TcpStream)\b|std::(net|fs|process|thread|env|io::(stdin|stdout|stderr))\b' \
  crates/model/src crates/routing/src crates/wire/src --include='*.rs' | grep -vE '^[^:]+:[0-9]+: *//' || true)

# Which of our crates a crate may use.
uses() {
  local crate=$1 allowed=" $2 " dependency
  while read -r dependency; do
    [[ $allowed == *" $dependency "* ]] || complain "crates/$crate may not depend on rowcast-$dependency"
  done < <(sed -n '/^\[dependencies\]/,/^\[/s/^rowcast-\([a-z]*\).*/\1/p' "crates/$crate/Cargo.toml")
}
uses model ""
uses source "model"
uses routing "model"
uses wire "model"
uses hub "model wire"
uses gateway "model wire hub"
uses application "model source"
uses embedded ""

exit $bad
