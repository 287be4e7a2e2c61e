#!/bin/sh
# The state of a freshly installed machine, copied for every container.
#   template.sh DIRECTORY PRIVATE_PATH...
set -eu
directory=$1
shift
for part; do mkdir -p "$directory/$part"; done
chmod 1777 "$directory/tmp"
# Without what only a booting or a package-managed machine reads: a container starts faster.
tar -C /etc --exclude='./rc?.d' --exclude=./apt --exclude=./dpkg --exclude=./systemd \
    --exclude=./terminfo --exclude=./pam.d --exclude=./security \
    --exclude=./cron.daily --exclude=./logcheck --exclude=./apparmor.d -cf - . |
    tar -C "$directory/etc" -xf -
mkdir -p "$directory/run/openvswitch" "$directory/run/ovn" "$directory/run/pluto" \
    "$directory/run/lab-bin" "$directory/run/lock" "$directory/var/log/openvswitch" \
    "$directory/var/log/ovn" "$directory/etc/openvswitch" "$directory/var/lib/ipsec/nss"
chmod 700 "$directory/run/pluto" "$directory/var/lib/ipsec/nss"
cp "$(dirname "$0")/systemctl" "$directory/run/lab-bin/systemctl"
: > "$directory/etc/machine-id"
ovsdb-tool create "$directory/etc/openvswitch/conf.db" /usr/share/openvswitch/vswitch.ovsschema
# Each installed machine makes its own database; an empty one is the same everywhere.
ipsec initnss --nssdir "$directory/var/lib/ipsec/nss" >/dev/null
