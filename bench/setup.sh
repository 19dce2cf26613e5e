#!/bin/sh
# What `make bench` measures, each installed for itself under .bench/.
set -eu
cd "$(dirname "$0")/.."
sh scripts/need.sh nginx:nginx-light node:nodejs npm:npm

# The distribution's interpreter, if it is new enough: it is built with profile-guided optimisation, as that of the image
# is. One that was compiled without is slower; both gateways in Python would be measured with it.
python=python3
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=/usr/bin/python3
$python -c 'import ensurepip' 2>/dev/null || sh scripts/need.sh ensurepip:python3-venv

ours=.bench/gateway/$(cat requirements.lock setup.cfg setup.py | sha256sum | cut -c1-16)
if [ ! -e "$ours" ]; then
    echo "setting up this gateway's environment with $($python --version)"
    $python -m venv --clear .bench/gateway
    .bench/gateway/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
    .bench/gateway/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
    touch "$ours"
fi

# LiteLLM 1.82.7, 1.82.8 and 1.107.0 are reported compromised: the version is pinned, and nothing else is ever taken.
litellm=1.106.2
if [ ! -e ".bench/litellm/$litellm" ]; then
    echo "setting up LiteLLM $litellm"
    $python -m venv --clear .bench/litellm
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
