#!/bin/sh
# Is this gateway good?   deploy/smoke.sh URL [TOKEN]
#
# Asks it for its health, its models, a whole and a streamed message, an error and its metrics, with curl alone, and says
# in words what is wrong. 0: all is well; 1: something is not; 2: it was called the wrong way. The two messages cost
# a few tokens.
#
# From the environment: GATEWAY_TOKEN (instead of TOKEN, which other users of this machine can see in the list of
# processes), SMOKE_MODEL (else the first that the gateway lists), SMOKE_SECONDS (patience with each request; 120), and
# what curl itself knows: CURL_CA_BUNDLE for a certificate of your own authority, https_proxy, ...
set -u

usage() {
    echo "usage: smoke.sh URL [TOKEN]     for example: smoke.sh https://gateway.example.com gwt_..." >&2
    exit 2
}
case $# in 1 | 2) ;; *) usage ;; esac
case $1 in http://?* | https://?*) ;; *) usage ;; esac
url=${1%/}
token=${2:-${GATEWAY_TOKEN:-}}
patience=${SMOKE_SECONDS:-120}
command -v curl >/dev/null || { echo "smoke.sh needs curl" >&2; exit 2; }

umask 077
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failures=0

ok() { printf 'ok    %-9s %s\n' "$step" "$1"; }
note() { printf 'note  %-9s %s\n' "$step" "$1"; }
fail() {
    printf 'FAIL  %-9s %s\n' "$step" "$1"
    failures=$((failures + 1))
}
finish() {
    if [ "$failures" = 0 ]; then
        echo "all is well with $url"
        exit 0
    fi
    echo "$failures of the checks failed for $url"
    exit 1
}

# The request's own headers are in a file: a command line can be read by others.
: >"$work/token"
[ -z "$token" ] || printf 'x-api-key: %s\n' "$token" >"$work/token"
printf 'x-api-key: gwt_made-up-by-the-smoke-test\n' >"$work/wrong-token"

# request METHOD PATH [BODY]: leaves $status, $kind (content type), $first (seconds to the first byte), and head and body in
# files. Fails, having said why, if there was no HTTP answer. $auth is the file with the token.
auth=$work/token
request() {
    : >"$work/head"
    : >"$work/body"
    set -- "$1" "$2" ${3+--data-binary "$3"}
    method=$1 path=$2
    shift 2
    answer=$(curl -q -sS -N --globoff --connect-timeout 10 --max-time "$patience" -X "$method" -H "@$auth" \
        -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \
        -o "$work/body" -D "$work/head" -w '%{http_code} %{time_starttransfer} %{content_type}' \
        "$@" "$url$path" 2>"$work/curl")
    code=$?
    status=${answer%% *}
    first=${answer#* }
    kind=${first#* }
    first=${first%% *}
    [ "$code" != 0 ] || return 0
    case $code in
        5 | 6) fail "the name in $url cannot be resolved: is it spelt right?" ;;
        7) fail "nothing listens at $url: is the gateway (or nginx) running, is the port right?" ;;
        28) fail "no whole answer within $patience s ($(bytes) bytes had come): an upstream, or a proxy on the way, is silent" ;;
        35) fail "no TLS at $url: is it https where http is served, or the other way round? ($(why))" ;;
        51 | 60 | 77 | 83) fail "the certificate of $url is not trusted here; for an authority of your own set CURL_CA_BUNDLE ($(why))" ;;
        18 | 52 | 55 | 56 | 92) fail "the connection broke in mid-answer, after $(bytes) bytes ($(why))" ;;
        1 | 8) fail "what answers at $url does not speak HTTP ($(why))" ;;
        *) fail "curl failed: $(why)" ;;
    esac
    return 1
}
why() { sed -n '1s/^curl: //p' "$work/curl"; }
bytes() { wc -c <"$work/body" | tr -d ' '; }
header() { tr -d '\r' <"$work/head" | sed -n "s/^$1: *//p" | tail -n 1; }
# field NAME: the first text of that name in the JSON answer.
field() { tr -d '\n' <"$work/body" | sed -n "s/^.*\"$1\": *\"\\([^\"]*\\)\".*\$/\\1/p"; }
is_html() {
    case $kind in text/html*) return 0 ;; esac
    head -c 200 "$work/body" | grep -qi '<html\|<!doctype'
}
is_stream() { case $kind in text/event-stream*) ;; *) return 1 ;; esac; }
# is_error TYPE: whether the answer is an error of that type in the protocol's shape, with its id told twice.
is_error() {
    case $kind in application/json*) ;; *) return 1 ;; esac
    grep -q '"type": *"error"' "$work/body" && grep -q "\"type\": *\"$1\"" "$work/body" || return 1
    [ -n "$(field request_id)" ] && [ "$(field request_id)" = "$(header '[Rr]equest-[Ii]d')" ]
}

# explain: what an answer that should have been a 200 means.
explain() {
    message=$(field message)
    by="request-id $(header '[Rr]equest-[Ii]d')"
    if is_html; then
        fail "an HTML page with status $status: something else answers here, or a proxy in between does: not the gateway"
        return
    fi
    case $status in
        3??) fail "it redirects to $(header '[Ll]ocation'): use that URL" ;;
        401)
            if [ -z "$token" ]; then
                fail "the gateway wants a token: give one as the second argument ($message)"
            else
                fail "the token is not accepted: $message ($by)"
            fi ;;
        403) fail "not allowed: $message ($by)" ;;
        404) fail "the gateway has no $path: does the URL have a path too many, such as /v1? ($message)" ;;
        429) fail "every key is rate limited, the first one for another $(header '[Rr]etry-[Aa]fter') s: $message ($by)" ;;
        502)
            case $message in
                *"failed authentication"*) fail "no key works: the upstream refuses them all; look at \`gateway keys\` ($by)" ;;
                *"no gateway"*) fail "nginx answers, but reaches no gateway: are they running, are they in gateways.conf?" ;;
                *) fail "the gateway gets no good answer from its upstream: $message ($by)" ;;
            esac ;;
        503 | 504) fail "no answer in time: $message ($by)" ;;
        529) fail "overloaded: $message ($by)" ;;
        *) fail "status $status: ${message:-$(head -c 200 "$work/body" | tr -d '\r\n')} ($by)" ;;
    esac
}

message() { # message STREAM: a request's body
    printf '{"model":"%s","max_tokens":32,"stream":%s,"messages":[{"role":"user","content":"Say hello."}]}' "$model" "$1"
}

step=health
request GET /healthz || finish
if [ "$status" = 200 ] && ! is_html && [ "$(head -c 2 "$work/body")" = ok ]; then
    request GET /readyz || finish
    case $status in
        200) ok "alive and ready" ;;
        503) fail "alive, but $(head -c 40 "$work/body" | tr -d '\n'): it is starting or stopping" ;;
        *) explain ;;
    esac
elif [ "$status" = 200 ]; then
    fail "something answers at $url, but it is not the gateway ($kind)"
    finish
else
    explain
    finish
fi

step=models
case $token in sk-ant-*) note "the token is an Anthropic key: if the gateway takes it at all, that key pays" ;; esac
model=${SMOKE_MODEL:-}
reached=no
if request GET /v1/models; then
    if [ "$status" != 200 ]; then
        explain
    elif ! grep -q '"data"' "$work/body"; then
        fail "a 200 that is no list of models ($kind)"
    else
        reached=yes
        ids=$(grep -o '"id": *"[^"]*"' "$work/body" | sed 's/.*"\([^"]*\)"$/\1/')
        model=${model:-$(echo "$ids" | head -n 1)}
        ok "$(echo "$ids" | grep -c .) models; the messages go to $model"
    fi
fi

step=whole
if [ "$reached" = no ]; then
    note "not tried"
elif request POST /v1/messages "$(message false)"; then
    if [ "$status" != 200 ]; then
        explain
    elif grep -q '"type": *"message"' "$work/body" && grep -q '"stop_reason": *"' "$work/body"; then
        ok "a message, whole, after $first s"
    else
        fail "a 200 that is no message ($kind): $(head -c 200 "$work/body" | tr -d '\r\n')"
    fi
fi

step=streamed
if [ "$reached" = no ]; then
    note "not tried"
elif request POST /v1/messages "$(message true)"; then
    events=$(grep -c '^event:' "$work/body")
    if [ "$status" != 200 ]; then
        explain
    elif ! is_stream; then
        fail "a stream was asked for and $kind came"
    elif grep -q '^event: *error' "$work/body"; then
        fail "the stream broke off with an error after $events events: $(sed -n '/^event: *error/,$s/.*"message": *"\([^"]*\)".*/\1/p' "$work/body" | head -n 1)"
    elif ! grep -q '^event: *message_start' "$work/body" || ! grep -q '^event: *message_stop' "$work/body"; then
        fail "the stream ended without message_stop, after $events events: something on the way cuts streams"
    else
        ok "$events events, the first after $first s"
    fi
fi

step=errors
if request POST /v1/messages '{}'; then
    wanted=invalid_request_error
    [ "$reached" = yes ] || wanted=$(field type) # whatever it refuses us for; the shape is what counts
    if is_html; then
        fail "an error is an HTML page (status $status): a proxy replaces the gateway's answers"
    elif [ "$reached" = yes ] && [ "$status" != 400 ]; then
        fail "a message without a model got status $status instead of 400"
    elif is_error "$wanted"; then
        ok "a refusal has the protocol's shape: $status $wanted"
    else
        fail "a refusal (status $status) has not the protocol's shape: $(head -c 200 "$work/body" | tr -d '\r\n')"
    fi
fi
if [ -n "$token" ] && [ "$reached" = yes ]; then
    auth=$work/wrong-token
    if request GET /v1/models; then
        if [ "$status" = 401 ]; then
            ok "a token that was made up is refused"
        else
            fail "a token that was made up got status $status: does anybody at all get in? (no token file?)"
        fi
    fi
    auth=$work/token
fi

step=metrics
if request GET /metrics; then
    if [ "$status" = 200 ] && grep -q '^gateway_build_info' "$work/body"; then
        keys=$(grep -c '^gateway_key_state{.*state="valid"' "$work/body")
        valid=$(grep -c '^gateway_key_state{.*state="valid"} 1' "$work/body")
        # A key that rests for one class of models serves the others.
        if [ "$keys" -gt 0 ] && [ "$valid" = 0 ] && ! grep -q '^gateway_scope_usable_keys{.*} [1-9]' "$work/body"; then
            fail "none of the $keys keys is valid; look at \`gateway keys\`"
        else
            ok "open to this machine; $valid of $keys keys are valid. The world must not get them (docs/security.md)"
        fi
    elif [ "$status" = 404 ] || [ "$status" = 403 ]; then
        note "closed here, as they should be behind nginx; Prometheus asks each gateway directly"
    else
        explain
    fi
fi
finish
