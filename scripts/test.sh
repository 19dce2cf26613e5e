#!/bin/sh
# Every test but the storms at full count, or with `-m long` these alone. Several run at once on each processor,
# because most of them wait: for servers, and for deadlines. Each process of tests takes some 400 MB, so there are no
# more than eight. Whatever is given is handed on to pytest.
set -eu

processes=$(($(nproc) * 4))
[ "$processes" -le 8 ] || processes=8
exec .venv/bin/python -m pytest --numprocesses "$processes" --dist worksteal --durations 10 "$@"
