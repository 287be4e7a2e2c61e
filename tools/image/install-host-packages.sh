#!/bin/sh
# Installs what building and running the image takes, if this machine lacks it.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=
for program in mmdebstrap runc umoci unshare; do
    command -v "$program" >/dev/null && continue
    package=$program
    [ "$program" != unshare ] || package=util-linux
    missing="$missing $package"
done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086  # a word is a package
exec "$(dirname "$0")/../install-packages.sh" image $missing
