#!/usr/bin/env bash
# Installs the published MCP servers that tests talk to: .venv-mcp in the project's root from requirements.txt, and
# node_modules beside node/package.json. What is already made from the same pins is left alone.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh setup.sh`
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environment=$(cd "$here/../.." && pwd)/.venv-mcp
python=${PYTHON:-python3}

recipe() { # VERSION FILE...
  echo "$1"
  cat "${@:2}" | sha256sum
}

is_made() { # STAMP RECIPE
  [[ -f $1 && $(<"$1") == "$2" ]]
}

mkdir -p "$environment"
echo '*' >"$environment/.gitignore"
exec 9>"$environment/lock" # two test runs in one clone take turns
flock 9

wanted=$(recipe "$("$python" -V)" "$here/requirements.txt")
if ! is_made "$environment/stamp" "$wanted"; then
  echo "tests/mcp/setup.sh: making .venv-mcp"
  rm -f "$environment/stamp"
  "$python" -m venv --clear "$environment/python"
  "$environment/python/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps \
    --requirement "$here/requirements.txt"
  "$environment/python/bin/python" -m pip --disable-pip-version-check check >/dev/null
  echo "$wanted" >"$environment/stamp" # last, so that what was broken off is made anew
fi

sh "$here/../../scripts/need.sh" node:nodejs npm:npm
modules=$here/node/node_modules
wanted=$(recipe "$(node --version)" "$here/node/package.json" "$here/node/package-lock.json")
if ! is_made "$modules/.stamp" "$wanted"; then
  echo "tests/mcp/setup.sh: making node_modules"
  rm -f "$modules/.stamp"
  (cd "$here/node" && npm ci --ignore-scripts --loglevel=error)
  echo "$wanted" >"$modules/.stamp"
fi
