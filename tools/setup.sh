#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Sets up what is missing: Python, QEMU, .venv with the project in it. Quick when nothing is.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/set-up
wanted=$(cat pyproject.toml tools/setup.sh tools/system_packages.py | sha256sum)
if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null &&
    command -v qemu-system-x86_64 >/dev/null; then
    exit 0
fi

# Debian ships ensurepip apart, in python3-venv.
find_python() {
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

if ! python=$(find_python); then
    sh tools/apt-install.sh python3 python3-venv
    python=$(find_python) || {
        echo "nsconform: Python 3.11 or newer is needed, and this release has an older one" >&2
        exit 2
    }
fi

"$python" -m tools.system_packages

echo "nsconform: installing the project into .venv" >&2
.venv/bin/python -c 'import pip' 2>/dev/null || "$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
echo "$wanted" >$stamp
