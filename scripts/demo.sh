#!/bin/sh
# The main job, shown: an answer streamed by curl through a gateway whose first two keys fail.
set -eu
cd "$(dirname "$0")/.."
sh scripts/need.sh curl:curl

folder=$(mktemp -d)
simulator="" gateway=""
stop() {
    [ -z "$gateway" ] || kill "$gateway" 2>/dev/null || true
    [ -z "$simulator" ] || kill "$simulator" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM

# wait_for FILE PATTERN: print the first match once it stands in the file.
wait_for() {
    tries=0
    until grep -o -m1 "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "it did not start; its log:" >&2; cat "$1" >&2; exit 1; }
        sleep 0.1
    done
}

for name in $(env | sed -n 's/^\(GATEWAY_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done

echo "== A simulated upstream with three keys: one rate limited, one revoked, one good"
.venv/bin/gateway simulate --bind 127.0.0.1:0 \
    --key "sk-demo-limited=rate_limited:retry-after=30" \
    --key "sk-demo-revoked=unauthorized" \
    --key "sk-demo-good=ok:events=8,delay=0.15" >"$folder/simulator.log" 2>&1 &
simulator=$!
upstream=$(wait_for "$folder/simulator.log" 'http://[0-9.:]*')
echo "   $upstream"

echo "== The gateway, with those keys in this order"
GATEWAY_UPSTREAM_URL=$upstream GATEWAY_BIND=127.0.0.1:0 GATEWAY_DATA_DIR=$folder/data \
GATEWAY_API_KEYS=limited=sk-demo-limited,revoked=sk-demo-revoked,good=sk-demo-good \
    .venv/bin/gunicorn -c gunicorn.conf.py >"$folder/gateway.log" 2>&1 &
gateway=$!
url=$(wait_for "$folder/gateway.log" 'Listening at: http://[0-9.:]*' | grep -o 'http.*')
until curl -sf "$url/readyz" >/dev/null; do sleep 0.1; done
echo "   $url"

echo "== curl $url/v1/messages, streamed"
curl -sS -N --fail-with-body "$url/v1/messages" \
    -H 'content-type: application/json' -H 'anthropic-version: 2023-06-01' \
    -d '{"model":"claude-demo","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"Hello"}]}' |
    tee "$folder/answer"
grep -q '^event: message_stop' "$folder/answer" || { echo "the stream did not end with message_stop" >&2; exit 1; }

echo "== What the gateway said"
grep '\] gateway\.' "$folder/gateway.log" | sed 's/^/   /'

echo "== What happened, key by key, from $url/metrics"
curl -sSf "$url/metrics" >"$folder/metrics"
printf '   %-8s %-10s %12s   %s\n' key state cooldown attempts
for key in limited revoked good; do
    state=$(sed -n "s/^gateway_key_state{key=\"$key\",state=\"\([a-z]*\)\"} 1.0/\1/p" "$folder/metrics")
    cooldown=$(sed -n "s/^gateway_key_cooldown_seconds{key=\"$key\",scope=.*} //p" "$folder/metrics" | sort -g | tail -n 1)
    attempts=$(sed -n "s/^gateway_key_attempts_total{key=\"$key\",outcome=\"\([a-z_]*\)\"} \([0-9]*\).*/\2 \1/p" "$folder/metrics" | tr '\n' ' ')
    printf '   %-8s %-10s %10.0f s   %s\n' "$key" "$state" "$cooldown" "$attempts"
done
