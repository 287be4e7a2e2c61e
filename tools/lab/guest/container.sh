#!/bin/sh
# First process of a container, in namespaces of its own.
#   container.sh DIRECTORY NAME PRIVATE_PATH...
set -eu
directory=$1 name=$2
shift 2
mount --make-rprivate /
for part; do mount --bind "$directory/$part" "/$part"; done
# libreswan 5 puts /usr/bin before everything else in its PATH.
[ ! -e /usr/bin/systemctl ] || mount --bind /run/lab-bin/systemctl /usr/bin/systemctl
mount -t proc proc /proc
mount -t sysfs sys /sys
echo "$name" > /proc/sys/kernel/hostname
echo "$name" > /etc/hostname
# Addresses are usable at once, and only those that the lab gives.
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra
echo 0 > /proc/sys/net/ipv6/conf/default/router_solicitations
ip link set lo up
echo ready
exec tini -- sleep infinity >/dev/null
