#!/usr/bin/env bash
# All tests on the newest PostgreSQL, then those that speak to one once more on the version that this
# machine has. Installs what is missing. Further arguments go to the test runner.
# Usage: scripts/test.sh [--matrix] [runner arguments...]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"

newest=18
oldest=14
matrix=false
if [ "${1:-}" = --matrix ]; then
  matrix=true
  shift
fi

# The test binaries that start a PostgreSQL.
with_postgres=(-p rowcast --test e2e)

run() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "$@"
  else
    cargo test "$@"
  fi
}

# The version of this machine's own server, if it has one.
own_major() {
  local bin
  bin=$(ls -d /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres 2>/dev/null | sort -V | tail -1)
  [ -n "$bin" ] || bin=$(command -v postgres || true)
  [ -z "$bin" ] || "$bin" --version | sed 's/.*) \([0-9]*\).*/\1/'
}

scripts/setup.sh test
if $matrix; then
  for major in $(seq "$oldest" "$newest"); do
    scripts/postgres.sh "$major" >/dev/null
    echo "== PostgreSQL $major" >&2
    ROWCAST_TEST_PG=$major run "${with_postgres[@]}" "$@"
  done
  exit
fi

scripts/postgres.sh "$newest" >/dev/null
echo "== everything, PostgreSQL $newest" >&2
ROWCAST_TEST_PG=$newest run --workspace "$@"
own=$(own_major)
if [ -z "$own" ] || [ "$own" = "$newest" ]; then
  echo "== this machine has no other PostgreSQL; 'make test-matrix' tests $oldest to $newest" >&2
elif [ "$own" -lt "$oldest" ]; then
  echo "== this machine's PostgreSQL $own is older than $oldest and not supported" >&2
else
  echo "== what speaks to PostgreSQL, on this machine's $own" >&2
  ROWCAST_TEST_PG=$own run "${with_postgres[@]}" "$@"
fi
