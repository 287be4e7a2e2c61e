#!/bin/sh
# Fills VENV, inside the lab root (in-root.sh), with what the guest mounts there.
#   install-python.sh VENV REQUIREMENT...
set -eu
venv=$1
shift
# System packages stay visible: scapy comes from Debian, and so do its dependencies.
python3 -m venv --system-site-packages "$venv"
"$venv/bin/pip" install --quiet --ignore-installed "$@"
"$venv/bin/python" -m compileall -q "$venv" || true
