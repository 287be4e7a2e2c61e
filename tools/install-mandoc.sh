#!/bin/sh
# Installs mandoc, which checks man pages, if this machine lacks it, is Debian and we are root.
set -eu
command -v mandoc >/dev/null && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Install this Debian package first: mandoc" >&2
    exit 1
fi
echo "docs: installing mandoc" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mandoc >/dev/null
