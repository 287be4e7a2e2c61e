#!/bin/sh
# Installs this tree on a node: the programs in a virtual environment of their own, links to them,
# systemd units, man pages and completions. Starts nothing.
#   [DESTDIR=DIR] tools/install.sh
set -eu
umask 022 # the authority's user runs what root installs
source=$(cd "$(dirname "$0")/.." && pwd)
root=${DESTDIR:-} home=/opt/ovn-ipsec local=/usr/local
python3 -m venv "$root$home"
"$root$home/bin/pip" install --quiet "$source[ca,metrics,status]"
mkdir -p "$root$local/bin"
for program in ovn-ipsec ovn-ipsec-ca; do
    ln -sfn "$home/bin/$program" "$root$local/bin/$program"
done
install -D -m 0644 -t "$root/etc/systemd/system" "$source"/manifests/systemd/*.service
install -D -m 0644 -t "$root$local/share/man/man8" "$source"/share/man/man8/*.8
install -D -m 0644 -t "$root$local/share/bash-completion/completions" \
    "$source"/share/bash-completion/completions/*
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
