#!/bin/sh
# mmdebstrap's customize hook: what the lab needs beside installed packages.
#   - the suite's stock kernel, unpacked (not installed: no initramfs, no boot loader), with
#     only the modules that networking and the virtual machine use;
#   - the distribution's own ovs-monitor-ipsec in /opt/original, unpacked only, because its
#     package depends on strongSwan.
set -eu
root=$1

chroot "$root" sh -eu <<'IN'
cd /tmp
kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
apt-get download -qq "$kernel" openvswitch-ipsec
dpkg -x openvswitch-ipsec_*.deb /opt/original
dpkg -x linux-image-*.deb /tmp/kernel
mv /tmp/kernel/boot/vmlinuz-* /boot/vmlinuz
modules=$(echo /tmp/kernel/*lib/modules/* /tmp/kernel/usr/lib/modules/*)
for candidate in $modules; do [ -d "$candidate" ] && modules=$candidate; done
version=${modules##*/}
mkdir -p "/lib/modules/$version/kernel/drivers/net"
cd "$modules"
cp modules.* "/lib/modules/$version/"
for part in arch crypto lib net fs/9p fs/netfs fs/fscache fs/ext4 fs/jbd2 fs/overlayfs \
    fs/mbcache.ko fs/mbcache.ko.xz drivers/block drivers/char/hw_random drivers/char/virtio_console.ko \
    drivers/char/virtio_console.ko.xz drivers/virtio; do
    [ -e "kernel/$part" ] || continue
    mkdir -p "/lib/modules/$version/kernel/$(dirname "$part")"
    cp -a "kernel/$part" "/lib/modules/$version/kernel/$part"
done
cp -a kernel/drivers/net/*.ko* "/lib/modules/$version/kernel/drivers/net/"
for part in vxlan wireguard ipvlan bonding; do
    [ -e "kernel/drivers/net/$part" ] || continue
    cp -a "kernel/drivers/net/$part" "/lib/modules/$version/kernel/drivers/net/"
done
# `_stackmanager` runs modprobe for each file it finds here: keep what IPsec uses today.
cd "/lib/modules/$version/kernel/arch/x86/crypto"
for module in *; do
    case $module in
        aesni-intel.* | ghash-clmulni-intel.* | sha*-ssse3.* | crc* | chacha-x86_64.* | \
            poly1305-x86_64.* | libblake2s-x86_64.* | curve25519-x86_64.*) ;;
        *) rm "$module" ;;
    esac
done
cd /
# Decompressing a module is slow in an emulated machine.
find "/lib/modules/$version" -name '*.ko.xz' -exec busybox unxz {} +
depmod "$version"
rm -rf /tmp/kernel /tmp/*.deb
mkdir -p /opt/venv /src /results /lab
IN

# The nodes make their own identities; the guest has no use for apt's lists.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
rm -f "$root"/etc/openvswitch/conf.db "$root"/etc/openvswitch/system-id.conf
rm -rf "$root"/usr/share/locale "$root"/usr/share/man "$root"/usr/share/doc
chroot "$root" dpkg-query -W > "$root/etc/lab-packages"
