#!/bin/sh
# Every test but the storms at full count, in two processes side by side: end-to-end tests mostly wait, for servers and
# deadlines. Both are run to their end, and both must pass.
set -u

log=$(mktemp)
end_to_end=
# What runs in the background does not hear Ctrl-C by itself, and has gateways to stop.
finish() {
    [ -z "$end_to_end" ] || { kill -INT "$end_to_end" 2>/dev/null; wait "$end_to_end"; }
    rm -f "$log"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

env --default-signal=INT .venv/bin/python -m pytest tests/e2e >"$log" 2>&1 &
end_to_end=$!
.venv/bin/python -m pytest --ignore=tests/e2e
others_status=$?
echo
echo "The end-to-end tests, which ran meanwhile:"
wait "$end_to_end"
end_to_end_status=$?
end_to_end=
cat "$log"
[ "$others_status" -eq 0 ] && [ "$end_to_end_status" -eq 0 ]
