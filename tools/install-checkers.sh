#!/bin/sh
# Installs what checks man pages (mandoc) and units (systemd-analyze), if this machine lacks it.
set -eu
missing=
command -v mandoc >/dev/null || missing="$missing mandoc"
command -v systemd-analyze >/dev/null || missing="$missing systemd"
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086  # a word is a package
exec "$(dirname "$0")/install-packages.sh" docs $missing
