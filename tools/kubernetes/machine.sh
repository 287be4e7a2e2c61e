#!/bin/sh
# Runs COMMAND on a machine of its own, as far as a Kubernetes node can change one: network,
# mounts, processes and host name are not this machine's, /run, /var/lib, /var/log and the kernel
# settings that a kubelet writes are copies. Everything ends with COMMAND.
#   machine.sh COMMAND...
# COMMAND finds a directory for large things in OVN_IPSEC_MACHINE. It is removed afterwards.
set -eu
PATH=$PATH:/usr/sbin:/sbin

outside() {
    state=$(mktemp -d "${TMPDIR:-/tmp}/ovn-ipsec-machine.XXXXXX")
    code=0
    # The child of unshare is process 1 in there: what it leaves behind is killed with it.
    OVN_IPSEC_MACHINE=$state unshare --mount --net --pid --uts --ipc --fork --kill-child \
        --mount-proc "$0" --inside "$@" || code=$?
    # Control groups of containers that did not end by themselves.
    for group in /sys/fs/cgroup/k8s.io /sys/fs/cgroup/*/k8s.io; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$state"
    exit "$code"
}

copy_of() {
    mkdir -p "$state/upper$1" "$state/work$1"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$state/upper$1,workdir=$state/work$1" "$1"
}

inside() {
    state=$OVN_IPSEC_MACHINE
    mount --make-rprivate /
    mkdir -p "$state/sysctl"
    for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
        kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
        file=$state/sysctl/$(echo "$setting" | tr / -)
        cat "/proc/sys/$setting" >"$file"
        mount --bind "$file" "/proc/sys/$setting"
    done
    mount -t tmpfs tmpfs /run
    copy_of /var/lib
    copy_of /var/log
    hostname node-1
    ip link set lo up
    "$@" &
    # Process 1 reaps, which a shell does while it waits.
    code=0
    wait $! || code=$?
    exit "$code"
}

if [ "$1" = --inside ]; then
    shift
    inside "$@"
else
    outside "$@"
fi
