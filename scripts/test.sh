#!/bin/sh
# Every test but the storms at full count, in two processes side by side: end-to-end tests mostly wait, for servers and
# deadlines. Both are run to their end, and both must pass.
set -u

log=$(mktemp)
trap 'rm -f "$log"' EXIT
.venv/bin/python -m pytest tests/e2e >"$log" 2>&1 &
end_to_end=$!
.venv/bin/python -m pytest --ignore=tests/e2e
others_status=$?
echo
echo "The end-to-end tests, which ran meanwhile:"
wait "$end_to_end"
end_to_end_status=$?
cat "$log"
[ "$others_status" -eq 0 ] && [ "$end_to_end_status" -eq 0 ]
