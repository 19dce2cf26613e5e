#!/bin/sh
# What `make bench` measures beside this gateway, each installed for itself under .bench/.
set -eu
cd "$(dirname "$0")/.."
sh scripts/need.sh nginx:nginx-light node:nodejs npm:npm

# LiteLLM 1.82.7, 1.82.8 and 1.107.0 are reported compromised: the version is pinned, and nothing else is ever taken.
litellm=1.106.2
if [ ! -e ".bench/litellm/$litellm" ]; then
    echo "setting up LiteLLM $litellm"
    python3 -m venv .bench/litellm
    .bench/litellm/bin/python -m pip install --quiet --disable-pip-version-check "litellm[proxy]==$litellm"
    touch ".bench/litellm/$litellm"
fi

# As published, Portkey's gateway cannot stream on Node.js 20: it adds headers to the Response that `fetch` gave it, and
# those are immutable ("TypeError: immutable"). A copy of the Response, made for streams alone, has headers of its own.
portkey=1.15.2
if [ ! -e ".bench/portkey/$portkey" ]; then
    echo "setting up Portkey's gateway $portkey"
    mkdir -p .bench/portkey
    (cd .bench/portkey && npm install --silent --no-audit --no-fund --prefix . "@portkey-ai/gateway@$portkey")
    server=.bench/portkey/node_modules/@portkey-ai/gateway/build/start-server.js
    sed -i 's/this\.updateHeaders(i,n\.cacheStatus,o)/this.context.isStreaming\&\&(i=new Response(i.body,i)),&/' $server
    grep -q 'isStreaming&&(i=new Response(i.body,i)),this.updateHeaders' $server
    touch ".bench/portkey/$portkey"
fi
