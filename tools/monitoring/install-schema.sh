#!/bin/sh
# Prints a directory with Grafana's types and the TypeScript compiler in node_modules, of the
# versions that schema/package-lock.json pins. It is made below the cache once per content.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
command -v npm >/dev/null || "$here/../install-packages.sh" monitoring nodejs npm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ovn-ipsec/dashboard-schema
name=$(cat "$here/schema/package.json" "$here/schema/package-lock.json" | sha256sum | cut -c1-16)
if [ ! -d "$cache/$name" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/tmp.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cp "$here/schema/package.json" "$here/schema/package-lock.json" "$work"
    (cd "$work" && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    mv "$work" "$cache/$name"
fi
echo "$cache/$name"
