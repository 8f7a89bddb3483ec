#!/usr/bin/env bash
# Installs a version of Supabase's JavaScript client, with everything it needs, into
# .cache/realtime-js/VERSION/node_modules, from npm, for the tests that connect it to the service. Every package
# has one version and is checked; none runs a script of its own. Nothing is done when it is there already.
# Prints the path of node_modules. Without a version: all that the tests use, one path a line.
# Usage: scripts/realtime-js.sh [2.119.0|2.10.7]
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
if [ $# = 0 ]; then
  # The newest, which speaks protocol 2.0.0; and one of those that speak 1.0.0 by an implementation of their own.
  for version in 2.119.0 2.10.7; do "$0" "$version"; done
  exit
fi

# Each package, and what npm says of it; a newer one needs both.
ws="ws@8.23.0 wCkmX8QMOrKjgO8HW2WyDbTSGeqkocxgDzS9iR79rEAexty6/2qzilx3Ag8Tqf9ykop3irLKle0MtVn5qjVnoQ=="
case $1 in
  2.119.0)
    packages="$ws
@supabase/realtime-js@2.119.0 fPzxt+SAYweqsZUCSZma2dvN+HT6lVjwWj8BbkVwapW6wNf1odUi+ATYN7svX4Zm9vt0kz0l0VzINAUAA38FEg==
@supabase/phoenix@0.4.5 aAn9H9ovVyeApKy11OWOrrOGq8DV68yWeH4ud2lN9fzn4aO8Zb5GLL9m1pUg9nLqIcT+ZDfAcsZe0E/nqdv2lw==
@supabase/supabase-js@2.119.0 MKP49G6bJbPhvsZDegZ/IXS/ITApPgplDCF5+F65KZ5kIArS5Y90WFxwvWYALx2bsxdrSuHvkCiXHYr3dU8+sw==
@supabase/auth-js@2.119.0 WI7KqJRxqZjm77PlRO/VfKretL4SG8g8stWfBmpyx9To+fFapZlSbXA8QkduoMvr72rRpIF24ZLrjktBrp+ZFA==
@supabase/functions-js@2.119.0 0aOdF/Y4lA+62K02nwZClfAthXmFEml0od42q3yy/9t3bBitomAOYEatTFSnxT/5UeeIDNn2DOnXTdAP0sqGNQ==
@supabase/postgrest-js@2.119.0 qBmcjEFO7Ptyf5qvOXYJa1s4bfA4zsMIFf2i+h2zd6RRTDLwquX8z1mnS9djNOJjbiO1OGFh5Y2Lc2k2pA8TMw==
@supabase/storage-js@2.119.0 htx1dSCnSJVPlx2BNSgLSUDvLMxuGbYa6pUPl5xoCs4as4cIhBVwuxj78zbggCyPHxLnEXjsV/qvlDsVjpodKw==
iceberg-js@0.8.1 1dhVQZXhcHje7798IVM+xoo/1ZdVfzOMIc8/rgVSijRK38EDqOJoGula9N/8ZI5RD8QTxNQtK/Gozpr+qUqRRA==
tslib@2.8.1 oJFu94HQb+KVduSUQL7wnpmqnfmLsOA/nAh6b6EH0wCEoK0/mPeXU6c3wKDV83MkOuHPRHtSXKKU99IBazS/2w==" ;;
  2.10.7)
    packages="$ws
@supabase/realtime-js@2.10.7 OLI0hiSAqQSqRpGMTUwoIWo51eUivSYlaNBgxsXZE7PSoWh12wPRdVt0psUMaUzEonSB85K21wGc7W5jHnT6uA==" ;;
  *)
    echo "realtime-js.sh: version $1 is not one that the tests use" >&2
    exit 2 ;;
esac

cache=$here/.cache/realtime-js
target=$cache/$1
if [ ! -e "$target/node_modules/@supabase/realtime-js/package.json" ]; then
  for tool in npm node tar; do
    command -v "$tool" >/dev/null || { echo "realtime-js.sh: $tool is needed (apt-get install npm)" >&2; exit 1; }
  done
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.new-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # shellcheck disable=SC2046 # one word each
  (cd "$work" && npm pack $(cut -d' ' -f1 <<<"$packages") --silent >/dev/null 2>&1) \
    || { echo "realtime-js.sh: could not fetch the packages of realtime-js $1" >&2; exit 1; }
  while read -r package sha512; do
    # @supabase/realtime-js@2.119.0 comes as supabase-realtime-js-2.119.0.tgz.
    name=${package%@*}
    file=${name#@}
    file=$work/${file/\//-}-${package##*@}.tgz
    found=$(node -e '
      const file = require("fs").readFileSync(process.argv[1]);
      console.log(require("crypto").createHash("sha512").update(file).digest("base64"));' "$file")
    [ "$found" = "$sha512" ] || { echo "realtime-js.sh: $package is not the file it was: sha512 $found" >&2; exit 1; }
    mkdir -p "$work/all/node_modules/$name"
    tar -xzf "$file" -C "$work/all/node_modules/$name" --strip-components=1
  done <<<"$packages"
  # Somebody else may have been faster: theirs is as good.
  mv -T "$work/all" "$target" 2>/dev/null || [ -e "$target/node_modules/@supabase/realtime-js/package.json" ]
fi
echo "$target/node_modules"
