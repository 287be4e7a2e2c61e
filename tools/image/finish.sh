#!/bin/sh
# Takes from an image's root what its containers do not need, and makes what they mount over.
#   finish.sh ROOT
set -eu
root=${1%/}
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/* \
    "$root"/var/log/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/usr/share/info/*
# Of these each node has its own.
rm -rf "$root"/etc/openvswitch/conf.db "$root"/etc/openvswitch/.conf.db.~lock~ \
    "$root"/etc/openvswitch/system-id.conf "$root"/var/lib/ipsec/nss "$root"/etc/machine-id
: > "$root/etc/machine-id"
# What is sent to a neighbour that is gone waits for ARP, and once it fills the usual 208 KiB (a
# hundred such neighbours) pluto stands still for seconds. Its command line takes no more than 64 KiB.
sed -i 's/^config setup$/&\n\tike-socket-bufsize=8388608/' "$root"/etc/ipsec.conf
grep -q ike-socket-bufsize=8388608 "$root"/etc/ipsec.conf
# Mount points: the root file system is read-only.
for directory in etc/ipsec.d run/openvswitch run/ovn-ipsec run/pluto var/lib/ipsec/nss \
    var/lib/openvswitch var/lib/ovn-ipsec/identity; do
    mkdir -p "$root/$directory"
done
# Nobody gains rights inside: every container has no_new_privs anyway.
find "$root" -xdev -type f -perm /6000 -exec chmod a-s {} +
