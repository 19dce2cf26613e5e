#!/usr/bin/env bash
# Makes the environments of the SDK tests: one for each major version of the Python SDK under
# .venv-sdk/ in the project's root, and node_modules beside node/package.json and claude-code/package.json
# (186 MB to download, 384 MB on disk). What is already made from the same pins is left alone, so it costs
# next to nothing to call this before every test run.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh setup.sh`
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environments=$(cd "$here/../.." && pwd)/.venv-sdk
python=${PYTHON:-python3}
oldest_node=20 # what the README of the TypeScript SDK asks for

fail() {
  echo "tests/sdk/setup.sh: $*" >&2
  exit 1
}

# What an environment was made from: the version of its interpreter, and the hash of its pins.
recipe() { # VERSION FILE...
  echo "$1"
  if command -v sha256sum >/dev/null; then
    cat "${@:2}" | sha256sum
  else
    cat "${@:2}" | shasum -a 256 # macOS
  fi
}

is_made() { # STAMP RECIPE PROBE
  [[ -e $3 && -f $1 && $(<"$1") == "$2" ]]
}

need_python() {
  command -v "$python" >/dev/null || fail "Python 3.11 or newer is needed: install it or set PYTHON"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is older than 3.11: install a newer Python or set PYTHON"
}

node_is_fit() {
  command -v node >/dev/null && command -v npm >/dev/null &&
    node -e "process.exit(parseInt(process.versions.node) >= $oldest_node ? 0 : 1)"
}

need_node() {
  node_is_fit && return
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "tests/sdk/setup.sh: installing Node.js with apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends nodejs npm; } >"$environments/apt.log" 2>&1 || true
    hash -r
  fi
  node_is_fit || fail "Node.js $oldest_node or newer with npm is needed: install it from https://nodejs.org"
}

make_python() { # NAME
  local requirements=$here/requirements-$1.txt folder=$environments/$1 wanted
  wanted=$(recipe "$python_version" "$requirements")
  is_made "$folder/stamp" "$wanted" "$folder/bin/python" && return
  echo "tests/sdk/setup.sh: making $1"
  rm -rf "$folder"
  "$python" -m venv "$folder" # Debian's python3 needs its package python3-venv for this
  "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps \
    --requirement "$requirements"
  "$folder/bin/python" -m pip --disable-pip-version-check check
  echo "$wanted" >"$folder/stamp" # last, so that what was broken off is made anew
}

make_node() { # NAME PACKAGE
  local folder=$here/$1 modules=$here/$1/node_modules wanted
  wanted=$(recipe "$(node --version)" "$folder/package.json" "$folder/package-lock.json")
  is_made "$modules/.stamp" "$wanted" "$modules/$2" && return
  echo "tests/sdk/setup.sh: making $1"
  rm -f "$modules/.stamp"
  (cd "$folder" && npm ci --ignore-scripts --loglevel=error)
  echo "$wanted" >"$modules/.stamp"
}

make_claude_code() {
  make_node claude-code @anthropic-ai/claude-code
  local programs=("$here"/claude-code/node_modules/@anthropic-ai/claude-code-*/claude) # npm took this platform's alone
  "${programs[0]}" --version
}

need_python
python_version=$("$python" -V)
mkdir -p "$environments"
echo '*' >"$environments/.gitignore"
if command -v flock >/dev/null; then # two test runs in one clone take turns
  exec 9>"$environments/lock"
  flock 9
fi
need_node

names=() jobs=()
for requirements in "$here"/requirements-*.txt; do
  name=$(basename "$requirements" .txt)
  names+=("${name#requirements-}")
  (make_python "${name#requirements-}" 9>&-) >"$environments/${name#requirements-}.log" 2>&1 &
  jobs+=($!)
done
names+=(node)
(make_node node @anthropic-ai/sdk 9>&-) >"$environments/node.log" 2>&1 &
jobs+=($!)
names+=(claude-code)
(make_claude_code 9>&-) >"$environments/claude-code.log" 2>&1 &
jobs+=($!)

broken=
for index in "${!names[@]}"; do
  if ! wait "${jobs[$index]}"; then
    broken+=" ${names[$index]}"
    tail -n 20 "$environments/${names[$index]}.log" >&2
  fi
done
[[ -z $broken ]] || fail "could not make$broken (whole logs: .venv-sdk/*.log)"
