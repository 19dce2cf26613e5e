#!/bin/sh
# Set up .venv from a lock file: venv.sh LOCK. Quick when it is already so.
set -eu
cd "$(dirname "$0")/.."
lock=$1
stamp=".venv/.$lock.$(cat "$lock" setup.cfg setup.py | sha256sum | cut -c1-16)"
[ -e "$stamp" ] && exit 0

sh scripts/need.sh python3:python3
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
python3 -c 'import ensurepip' 2>/dev/null || sh scripts/need.sh ensurepip:python3-venv

echo "setting up .venv from $lock"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
rm -f ".venv/.$lock."*
touch "$stamp"
