#!/bin/sh
# Runs a command in an unpacked Debian root that can reach pip's index as the caller can.
#   in-root.sh ROOT [DIRECTORY:INSIDE ...] -- COMMAND...
# Each DIRECTORY is seen at INSIDE. Runs in a mount namespace of its own (unshare --mount), so ROOT
# itself stays as it is, but for the places. PIP_* variables and pip.conf of the calling user
# count, with the certificates they need.
set -eu
root=$1
shift

mount --make-rprivate /
while [ "$1" != -- ]; do
    mkdir -p "$root${1#*:}"
    mount --bind "${1%%:*}" "$root${1#*:}"
    shift
done
shift
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/tmp/resolv.conf"
[ ! -e "$root/etc/resolv.conf" ] || mount --bind "$root/tmp/resolv.conf" "$root/etc/resolv.conf"

for bundle in "${PIP_CERT:-}" "${REQUESTS_CA_BUNDLE:-}" "${SSL_CERT_FILE:-}" \
    /etc/ssl/certs/ca-certificates.crt; do
    [ -f "$bundle" ] || continue
    cp "$bundle" "$root/tmp/certificates.pem"
    export PIP_CERT=/tmp/certificates.pem SSL_CERT_FILE=/tmp/certificates.pem
    export REQUESTS_CA_BUNDLE=/tmp/certificates.pem
    break
done
for conf in "${PIP_CONFIG_FILE:-}" "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf" \
    /etc/pip.conf; do
    [ -f "$conf" ] || continue
    grep -v '^ *cert *=' "$conf" > "$root/tmp/pip.conf"
    export PIP_CONFIG_FILE=/tmp/pip.conf
    break
done
unset PIP_FIND_LINKS SSL_CERT_DIR
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
exec chroot "$root" "$@"
