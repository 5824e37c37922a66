# SPDX-License-Identifier: GPL-2.0-only
"""Installs what the distribution has to provide: QEMU, recent enough, and a few small things.

Standard library only: it runs before .venv is there.
"""

import ctypes.util
import os
import re
import shlex
import shutil
import subprocess
import sys

from vm import qemu
from vm.apt import Apt, machine_sources
from vm.cache import cache_dir
from vm.errors import ConfigError

_QEMU = "qemu-system-x86"


def main() -> int:
    """Install what is missing; return the exit status, 2 when the user has to do it."""
    missing = _missing()
    if not missing:
        return 0
    print(f"nsconform: installing {' '.join(missing)}", file=sys.stderr)
    try:
        command = _install_command(missing)
    except ConfigError as error:
        print(f"nsconform: {error}", file=sys.stderr)
        print(f"Install {' '.join(missing)} by the means of this system.", file=sys.stderr)
        return 2
    if problem := _run_as_root(command):
        print(f"nsconform: {problem}\nAs root, type:\n    {shlex.join(command)}", file=sys.stderr)
        # With an old QEMU guests get one CPU, and a warning says so.
        return 0 if _qemu_version() and not _missing_besides_qemu() else 2
    return 0


def _missing() -> list[str]:
    return [*([] if _qemu_version() >= qemu.MINIMUM else [_QEMU]), *_missing_besides_qemu()]


def _missing_besides_qemu() -> list[str]:
    there = {
        "libarchive13": ctypes.util.find_library("archive"),
        "file": shutil.which("file"),  # virtme-run 1.42 ends in a traceback without it
    }
    return [package for package, found in there.items() if not found]


def _qemu_version() -> tuple[int, ...]:
    try:
        return qemu.find().version
    except ConfigError:
        return ()


def _install_command(packages: list[str]) -> list[str]:
    """Return the command that installs `packages`, after a rehearsal of what it would do."""
    apt = Apt(cache_dir("apt-install"))
    # Only this release and its backports: given a newer one, apt would upgrade the C library.
    sources = machine_sources()
    backports = f"{sources.codename}-backports"
    entries = [sources.archive.with_suites([*sources.archive.suites, backports])]
    if sources.security:
        entries.append(sources.security.with_suites(sources.security.suites))
    apt.write_sources(entries)
    problem = apt.update()
    release = backports if _candidate(apt) < qemu.MINIMUM else ""
    if release and release not in apt.suites():
        raise ConfigError(f"no QEMU {'.'.join(map(str, qemu.MINIMUM))} here: {problem}")
    options = ["--yes", "--no-remove", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    options += ["--target-release", release] if release else []
    _refuse_upgrades(apt.get("--simulate", *options, "install", *packages))
    return ["apt-get", *apt.options(cached=False), "-q", *options, "install", *packages]


def _candidate(apt: Apt) -> tuple[int, ...]:
    found = re.search(r"Candidate: (?:\d+:)?(\d+)\.(\d+)", apt.query("policy", _QEMU))
    return (int(found[1]), int(found[2])) if found else (0,)


def _refuse_upgrades(rehearsal: str) -> None:
    # "Inst package [installed version] (new version Debian Backports:bookworm-backports [amd64])"
    foreign = re.compile(r"Inst (?!qemu|seabios|ipxe)(\S+) \[[^]]*\] \(\S+ [^)]*[Bb]ackports")
    for line in rehearsal.splitlines():
        if line.startswith("Remv ") or foreign.match(line):
            raise ConfigError(f"installing QEMU would change this system: {line}")


def _run_as_root(command: list[str]) -> str:
    """Run the command; return why it did not work, or ""."""
    prefix: list[str] = []
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            return "this needs root, and there is no sudo"
        # Without a terminal nobody can type a password.
        prefix = ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]
    argv = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *command]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        return f"{' '.join(prefix) or 'apt-get'} failed with status {done.returncode}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
