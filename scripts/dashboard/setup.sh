#!/bin/sh
# Makes the page that draws the dashboard, in node_modules/site beside this file: index.html and page.jsx with Grafana's
# libraries, its icons and its font. What package.json and package-lock.json name is installed as .npmrc says, unless it
# is already there.
set -eu
cd "$(dirname "$0")"
site=node_modules/site

sh ../need.sh node:nodejs npm:npm
if ! cmp -s package-lock.json node_modules/stamp; then
    echo "scripts/dashboard: getting Grafana's libraries"
    npm ci --ignore-scripts --loglevel=error
    cp package-lock.json node_modules/stamp
fi
rm -rf "$site"
mkdir -p "$site/public/fonts/inter"
cp -r node_modules/@grafana/ui/dist/public "$site/public/build"
cp node_modules/@fontsource/inter/files/inter-latin-400-normal.woff2 "$site/public/fonts/inter/Inter-Regular.woff2"
cp node_modules/@fontsource/inter/files/inter-latin-500-normal.woff2 "$site/public/fonts/inter/Inter-Medium.woff2"
cp index.html "$site/"
node_modules/.bin/esbuild page.jsx --bundle --minify --jsx=automatic --loader:.ttf=empty \
    --define:process.env.NODE_ENV='"production"' --log-level=warning --outdir="$site"
