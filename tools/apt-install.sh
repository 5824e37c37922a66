#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Installs packages of the machine's own release: apt-install.sh PACKAGE...
# As root or through sudo; otherwise prints the command to type and ends with status 2.
set -eu

command="apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -q -y \
-o DPkg::Lock::Timeout=120 --no-remove --no-install-recommends install $*"

give_up() {
    printf 'nsconform needs: %s\nAs root, type:\n    %s\n' "$*" "$command" >&2
    exit 2
}

if ! command -v apt-get >/dev/null; then
    echo "nsconform: no apt-get here; install $* by the means of this system" >&2
    exit 2
fi
echo "nsconform: installing $*" >&2
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    # Without a terminal nobody can type a password.
    [ -t 0 ] && as_root=sudo || as_root="sudo -n"
else
    give_up "$@"
fi
said=$($as_root sh -c "$command" 2>&1) || {
    echo "$said" >&2
    give_up "$@"
}
