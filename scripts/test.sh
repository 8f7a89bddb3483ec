#!/usr/bin/env bash
# All tests on the newest PostgreSQL, then those that speak to one once more on the version that this
# machine has. Installs what is missing. Further arguments go to the test runner.
# Usage: scripts/test.sh [--matrix] [runner arguments...]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"

newest=18
oldest=14
# Most tests wait most of the time: for a server to start, for something to come.
cores=$(getconf _NPROCESSORS_ONLN)
export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$((cores + 4))} RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((cores + 2))}

# The packages whose tests start a PostgreSQL.
with_postgres=(-p rowcast -p rowcast-source -p rowcast-application)

# run MAJOR DIRECTORY-OF-BINARIES ARGUMENTS...
run() {
  local runner=test
  export ROWCAST_TEST_PG=$1 ROWCAST_PG_BIN=$2
  shift 2
  if cargo nextest --version >/dev/null 2>&1; then
    runner="nextest run"
  fi
  # shellcheck disable=SC2086 # two words
  cargo $runner --locked "$@"
}

# The binaries of this machine's own server, if it has one.
own_binaries() {
  local found
  found=$(ls -d /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres 2>/dev/null | sort -V | tail -1)
  found=${found:-$(command -v postgres || true)}
  [ -z "$found" ] || dirname "$found"
}

scripts/setup.sh test
scripts/typescript.sh >/dev/null
scripts/realtime-js.sh >/dev/null
if [ "${1:-}" = --matrix ]; then
  shift
  for major in $(seq "$oldest" "$newest"); do
    bin=$(scripts/postgres.sh "$major")
    echo "== PostgreSQL $major" >&2
    run "$major" "$bin" "${with_postgres[@]}" "$@"
  done
  exit
fi

bin=$(scripts/postgres.sh "$newest")
echo "== everything, PostgreSQL $newest" >&2
run "$newest" "$bin" --workspace "$@"

own=$(own_binaries)
major=
[ -z "$own" ] || major=$("$own/postgres" --version | sed 's/.*) \([0-9]*\).*/\1/')
if [ -z "$major" ] || [ "$major" = "$newest" ]; then
  echo "== this machine has no other PostgreSQL; 'make test-matrix' tests $oldest to $newest" >&2
elif [ "$major" -lt "$oldest" ]; then
  echo "== this machine's PostgreSQL $major is older than $oldest and not supported" >&2
else
  echo "== what speaks to PostgreSQL, on this machine's $major; what is drawn at random or very large, shorter" >&2
  export ORACLE_SECONDS=${ORACLE_SECONDS:-12} ORACLE_WRITES=${ORACLE_WRITES:-2} CHAOS_FAULTS=${CHAOS_FAULTS:-8}
  export ROWCAST_TEST_BIG_ROWS=${ROWCAST_TEST_BIG_ROWS:-60000} ROWCAST_TEST_RESUMES=${ROWCAST_TEST_RESUMES:-100}
  run "$major" "$own" "${with_postgres[@]}" "$@"
fi
