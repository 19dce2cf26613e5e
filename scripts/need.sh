#!/bin/sh
# Make sure that programs are there: need.sh COMMAND:DEBIAN_PACKAGE ...
# What is missing is installed where that is possible (Debian, as root); else this says what to install, and fails.
set -eu

missing=""
for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of package names
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "please install these programs first (Debian's packages are called):$missing" >&2
    exit 1
fi
