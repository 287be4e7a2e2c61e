#!/bin/sh
# Prints a directory with promtool and prometheus (Debian's package), which are unpacked below the
# cache once per version: nothing is installed on this machine.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ovn-ipsec/prometheus
version=$(apt-cache policy prometheus | sed -n 's/^  Candidate: //p')
if [ -z "$version" ] || [ "$version" = "(none)" ]; then
    apt-get -qq update >&2
    version=$(apt-cache policy prometheus | sed -n 's/^  Candidate: //p')
fi
[ -n "$version" ] && [ "$version" != "(none)" ] || { echo "no package prometheus here: Debian 12 or later is needed" >&2; exit 1; }
name=$(printf '%s' "$version" | tr -c 'A-Za-z0-9.\n' _)
if [ ! -x "$cache/$name/prometheus" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/tmp.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "prometheus=$version" >&2)
    dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool ./usr/bin/prometheus
    mkdir -p "$cache/$name"
    mv "$work/usr/bin/promtool" "$work/usr/bin/prometheus" "$cache/$name/"
fi
echo "$cache/$name"
