#!/bin/sh
# Installs headless Chromium and its driver, if this machine lacks them.
set -eu
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
exec "$(dirname "$0")/../install-packages.sh" web chromium chromium-driver fonts-dejavu-core
