#!/bin/sh
# Installs the project, from a wheel, into a virtual environment; in the builder's root.
#   make-venv.sh SOURCE TARGET
set -eu
source=$1 target=$2
work=$(mktemp -d)
python3 -m venv "$work/build"
"$work/build/bin/pip" wheel --quiet --no-deps --wheel-dir "$work" "$source"
python3 -m venv --without-pip "$target"
wheel=$(echo "$work"/ovn_ipsec-*.whl)
"$work/build/bin/pip" --python "$target/bin/python3" install --quiet "$wheel[ca,kubernetes,metrics,render,status]"
rm -rf "$work"
# Nothing can write below /opt when the image runs.
"$target/bin/python3" -m compileall -q "$target/lib" || true
