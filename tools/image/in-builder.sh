#!/bin/sh
# Runs a command in the builder's root, with SOURCE at /src and OUTPUT at /opt.
#   in-builder.sh ROOT SOURCE OUTPUT COMMAND...
# Runs in a mount namespace of its own (unshare --mount), so ROOT itself stays as it is. pip's
# settings of the calling user count, with the certificates they need.
set -eu
root=$1 source=$2 output=$3
shift 3

mount --make-rprivate /
mkdir -p "$root/src"
mount --bind "$source" "$root/src"
mount --bind "$output" "$root/opt"
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
exec chroot "$root" "$@"
