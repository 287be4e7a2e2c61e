#!/bin/sh
# Prints the directory of containerd, its shim and ctr (Debian's), which are unpacked below the
# cache once per version: nothing is installed on this machine, and no service starts.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ovn-ipsec/containerd
version=$(apt-cache policy containerd | sed -n 's/^  Candidate: //p')
if [ -z "$version" ] || [ "$version" = "(none)" ]; then
    apt-get -qq update >&2
    version=$(apt-cache policy containerd | sed -n 's/^  Candidate: //p')
fi
if [ -z "$version" ] || [ "$version" = "(none)" ]; then
    echo "no package containerd here: Debian 12 or later is needed" >&2
    exit 1
fi
name=$(printf '%s' "$version" | tr -c 'A-Za-z0-9.\n' _)
if [ ! -d "$cache/$name" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/tmp.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "containerd=$version" >&2)
    dpkg-deb --fsys-tarfile "$work"/containerd_*.deb | tar -x -C "$work" ./usr/bin
    # Somebody else may have been first.
    mv -T "$work/usr/bin" "$cache/$name" 2>/dev/null || [ -d "$cache/$name" ]
fi
echo "$cache/$name"
