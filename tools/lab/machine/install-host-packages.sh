#!/bin/sh
# Installs what the lab needs and this machine lacks.
#   install-host-packages.sh [venv]    with `venv` only what a Python environment needs
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ "${1:-lab}" = lab ]; then
    command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
    command -v mmdebstrap >/dev/null || missing="$missing mmdebstrap"
    command -v mke2fs >/dev/null || missing="$missing e2fsprogs"
    command -v unshare >/dev/null || missing="$missing util-linux"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
        missing="$missing debian-archive-keyring"
fi
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086  # a word is a package
exec "$(dirname "$0")/../../install-packages.sh" lab $missing
