#!/bin/sh
# Every test but the storms at full count. Several run at once on each processor, because most of them wait: for servers,
# and for deadlines. Whatever is given is handed on to pytest.
set -eu

exec .venv/bin/python -m pytest --numprocesses "$(($(nproc) * 3))" --dist worksteal --durations 10 "$@"
