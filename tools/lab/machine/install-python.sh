#!/bin/sh
# Fill OUTPUT with the virtual environment that the guest mounts at /opt/venv.
#   install-python.sh ROOT OUTPUT REQUIREMENT...
# Runs in a mount namespace of its own (unshare --mount), so ROOT itself stays as it is.
# PIP_* variables and pip.conf of the calling user count, with the certificates they need.
set -eu
root=$1 output=$2
shift 2

mount --bind "$output" "$root/opt/venv"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/tmp/resolv.conf"
[ -e "$root/etc/resolv.conf" ] && mount --bind "$root/tmp/resolv.conf" "$root/etc/resolv.conf"

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
# System packages stay visible: scapy comes from Debian, and so do its dependencies.
chroot "$root" python3 -m venv --system-site-packages /opt/venv
chroot "$root" /opt/venv/bin/pip install --quiet --ignore-installed "$@"
chroot "$root" /opt/venv/bin/python -m compileall -q /opt/venv || true
