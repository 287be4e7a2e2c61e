#!/bin/busybox sh
# Mounts the root image under a tmpfs overlay, the Python packages, the project, the results
# share and the container image, then hands over to the project's own guest script.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done

fail() {
    echo "lab: boot failed: $*"
    poweroff -f
}
mkdir /lower /layer
mount -t ext4 -o ro,noatime /dev/vda /lower || fail "no root image"
mount -t tmpfs -o size=75% tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work root /new ||
    fail "no overlay"
mount -t ext4 -o ro,noatime /dev/vdb /new/opt/venv || fail "no Python image"
mount -t tmpfs tmpfs /new/src
tar -x -C /new/src -f /dev/vdc || fail "no project archive"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none results /new/results ||
    fail "no results share"
# The container image, where the run asked for it.
mkdir -p /new/opt/image
[ ! -b /dev/vdd ] || mount -t ext4 -o ro,noatime /dev/vdd /new/opt/image || fail "no image"
for part in proc sys dev; do mount -o move "/$part" "/new/$part"; done
exec switch_root /new /bin/sh /src/tools/lab/guest/boot.sh
