#!/usr/bin/env bash
# Starts docker-compose.yml and looks at it as a user would: is everything healthy, does a row that is
# changed with psql arrive on the socket of its organization and on no other, is nothing writable.
# Takes everything down again, volumes included, unless KEEP is set.
set -euo pipefail
cd "$(dirname "$0")/.."

if docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=docker-compose; fi
out=$(mktemp -d)
finish() {
  status=$?
  [ $status = 0 ] || $compose logs --tail 40 || true
  [ -n "${KEEP:-}" ] || $compose down -v >/dev/null 2>&1 || true
  rm -rf "$out"
  exit $status
}
trap finish EXIT
fail() { echo "compose-test: $1" >&2; exit 1; }
# until_true WHAT COMMAND...
until_true() {
  local what=$1
  shift
  for _ in $(seq 120); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 1
  done
  fail "$what: never came true"
}

$compose up -d
until_true "the service is ready" $compose exec -T rowcast rowcast healthcheck --ready
healthy() { docker inspect -f '{{.State.Health.Status}}' "$($compose ps -q "$1")" | grep -qx healthy; }
until_true "rowcast is healthy" healthy rowcast
until_true "postgres is healthy" healthy postgres
curl -fsS http://127.0.0.1:4000/ | grep -q Rowcast || fail "the page is not there"

[ "$($compose exec -T rowcast id -u)" != 0 ] || fail "it runs as root"
! $compose exec -T rowcast touch /usr/local/bin/x 2>/dev/null || fail "its file system is writable"
! $compose exec -T rowcast env | grep -qE 'SECRET=|PASSWORD=' || fail "a secret is in the environment"

listen() { $compose exec -T rowcast timeout 20 rowcast tail "org:$1" --user "$2" --json >"$out/$1" 2>&1 </dev/null || true; }
listen acme alice &
listen globex greta &
until_true "acme listens" grep -q '"subscribed"' "$out/acme"
until_true "globex listens" grep -q '"subscribed"' "$out/globex"
sql="UPDATE demo.tasks SET title = 'by hand' WHERE project_id IN (SELECT id FROM demo.projects WHERE organization_id = 'acme')"
until_true "the row is changed" $compose exec -T postgres psql -qU postgres app -c "$sql"
until_true "acme hears of it" grep -q 'by hand' "$out/acme"
wait
! grep -q 'by hand' "$out/globex" || fail "globex hears of it too"
echo "compose-test: all is well"
