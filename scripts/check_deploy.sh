#!/bin/sh
# What deploy/ holds is looked at by the programs it is written for, or by the best checker there is. Says what is wrong;
# silent otherwise.
set -eu
cd "$(dirname "$0")/.."
sh scripts/need.sh shellcheck:shellcheck nginx:nginx-light systemd-analyze:systemd openssl:openssl
PATH=$PWD/.venv/bin:$PATH:/usr/sbin

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# quietly COMMAND ...: its output only if it fails.
quietly() {
    "$@" >"$folder/output" 2>&1 || { echo "failed: $*" >&2; cat "$folder/output" >&2; exit 1; }
}

shellcheck deploy/*.sh deploy/systemd/gateway scripts/*.sh scripts/*/*.sh tests/*/*.sh
hadolint deploy/docker/Dockerfile
sh tests/deploy/tools/setup.sh
quietly tests/deploy/tools/node_modules/programs/helm lint --strict deploy/helm/messages-gateway
yamllint --strict -c deploy/yamllint.yaml deploy
quietly check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/compose.yaml
for file in deploy/kubernetes/*.yaml; do
    case $file in
        # Not Kubernetes' own kinds: tests/deploy looks at them.
        */kustomization.yaml | */pod-monitor.yaml) ;;
        *) quietly kubernetes-validate --strict "$file" ;;
    esac
done

# nginx itself, with a certificate, and with its folders where anybody may write.
cp -r deploy/nginx "$folder/nginx"
mkdir "$folder/nginx/tls" "$folder/nginx/log"
quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=gateway.example.com \
    -keyout "$folder/nginx/tls/privkey.pem" -out "$folder/nginx/tls/fullchain.pem"
sed -i -e "s#/etc/nginx/tls/#$folder/nginx/tls/#; s#/var/log/nginx/#$folder/nginx/log/#; s#/run/nginx.pid#$folder/nginx/pid#" \
    "$folder/nginx/nginx.conf" "$folder/nginx/conf.d/"*.conf
for module in client_body proxy fastcgi uwsgi scgi; do
    echo "${module}_temp_path $folder/nginx/$module;"
done >"$folder/nginx/conf.d/temporary-files.conf"
quietly nginx -t -p "$folder/nginx" -c "$folder/nginx/nginx.conf"
if grep -q warn "$folder/output"; then
    cat "$folder/output" >&2
    exit 1
fi
# hsts_header: only the status page is for browsers, and has it.
quietly gixy --skips hsts_header "$folder/nginx/nginx.conf"

# systemd wants the programs to be where the unit says.
mkdir "$folder/bin"
printf '#!/bin/sh\n' >"$folder/bin/gateway"
chmod +x "$folder/bin/gateway"
unit="$folder/messages-gateway@8081.service"
sed "s#/opt/messages-gateway#$folder#" "deploy/systemd/messages-gateway@.service" >"$unit"
quietly systemd-analyze verify "$unit"
if [ -s "$folder/output" ]; then
    cat "$folder/output" >&2
    exit 1
fi
# The scale goes from 0 (shut) to 100; without any hardening it would be 96.
quietly systemd-analyze security --no-pager --offline=true --threshold=15 "$unit"
