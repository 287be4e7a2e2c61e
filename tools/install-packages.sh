#!/bin/sh
# Installs Debian packages, if this is Debian or a relative and we are root; says so if not.
#   install-packages.sh FOR-WHAT PACKAGE...
set -eu
what=$1
shift
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Install these Debian packages first: $*" >&2
    exit 1
fi
echo "$what: installing $*" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
