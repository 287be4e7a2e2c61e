#!/bin/sh
# Installs what building and running the image takes, if this is Debian or a relative and we are
# root.
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
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Install these Debian packages first:$missing" >&2
    exit 1
fi
echo "image: installing$missing" >&2
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
