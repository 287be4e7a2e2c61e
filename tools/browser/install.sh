#!/bin/sh
# Installs headless Chromium and its driver, if this machine lacks them, is Debian and we are root.
set -eu
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Install these Debian packages first: chromium chromium-driver" >&2
    exit 1
fi
echo "web: installing chromium chromium-driver" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    chromium chromium-driver fonts-dejavu-core >/dev/null
