#!/usr/bin/env bash
# Looks for what building and testing need, and installs what is missing: with apt-get when run as root
# on Debian or Ubuntu, otherwise it prints the command. Rust is never installed for you.
# Usage: scripts/setup.sh [build|test]   (default: test)
set -euo pipefail

want=${1:-test}
oldest=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need c++ g++
need make make
need git git
if [ "$want" = test ]; then
  # The newest PostgreSQL comes as an npm package, for every user and beside every other version. So do the TypeScript
  # compiler and the libraries of Supabase that are connected to the service.
  need node nodejs
  need npm npm
fi
# The example page is tested in a real browser, where there is one.
browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
if [ "$want" = test ] && [ -z "${ROWCAST_TEST_BROWSER:-}" ] && ! browser >/dev/null; then
  # Not on Ubuntu, whose package of that name only points to a snap.
  if [ "$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release; then
    missing+=(chromium)
  else
    echo "setup: no Chromium here: the test of the example page in a browser is left out" >&2
  fi
fi
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ "$(uname -s)" != Linux ] || missing+=(ca-certificates)

if [ ${#missing[@]} -gt 0 ]; then
  command="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "setup: these are missing: ${missing[*]}" >&2
    echo "setup: on Debian or Ubuntu: sudo $command" >&2
    exit 1
  fi
fi

# rustup puts cargo where a fresh shell may not look.
[ ! -d "$HOME/.cargo/bin" ] || PATH=$HOME/.cargo/bin:$PATH
if ! command -v cargo >/dev/null; then
  echo "setup: Rust $oldest or newer is needed and is not here. https://rustup.rs says how to install it." >&2
  exit 1
fi
found=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -1)" != "$oldest" ]; then
  echo "setup: Rust $found is too old, $oldest or newer is needed: rustup update stable" >&2
  exit 1
fi
