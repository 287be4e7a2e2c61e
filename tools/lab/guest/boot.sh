#!/bin/sh
# First process of the virtual machine: makes it a usable Linux, runs what the host left in
# /results/command, notes the exit status and powers off.
export PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /lab
mkdir -p /dev/pts /dev/shm /run/netns
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin  # nft -f - opens it by name
# `openvswitch` before conntrack modules would leave their automatic loading to each node.
modprobe -a openvswitch vport_geneve vport_vxlan vport_gre geneve vxlan ip_gre veth bridge \
    esp4 esp6 xfrm_user nf_tables nft_ct nft_xfrm tun dummy 2>/dev/null
ip link set lo up
hostname lab
# Without a listener on /dev/log the C library writes to the console, a slow serial line here.
busybox syslogd -S -s 0 -O /tmp/messages

export HOME=/root LANG=C.UTF-8 TERM="${TERM:-linux}" PYTHONUNBUFFERED=1
# No PYTHONPYCACHEPREFIX: it would hide the compiled files that the images have.
export PYTHONPATH=/src
cd /src
# A session of its own, so that the console is its controlling terminal.
setsid -c sh /results/command </dev/hvc0 >/dev/hvc0 2>&1
echo $? > /results/exit-status
cp /tmp/messages /results/messages 2>/dev/null
sync
exec busybox poweroff -f
