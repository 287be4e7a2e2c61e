#!/bin/sh
# Installs what checks man pages (mandoc) and units (systemd-analyze), if this machine lacks it, is
# Debian and we are root.
set -eu
missing=
command -v mandoc >/dev/null || missing=mandoc
command -v systemd-analyze >/dev/null || missing="$missing systemd"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Install these Debian packages first: $missing" >&2
    exit 1
fi
echo "docs: installing $missing" >&2
apt-get update -qq
# shellcheck disable=SC2086  # two words are two packages
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
