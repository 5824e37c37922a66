# SPDX-License-Identifier: GPL-2.0-only
"""The QEMU of this machine, and how far it can be trusted."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vm.accel import Accel
from vm.errors import ConfigError

PROGRAM = "qemu-system-x86_64"
# Debian's 7.2 corrupts guests with two CPUs under TCG: 6.12 kernels die of double faults in most
# boots, with one CPU in none. 10.0 booted them all; nothing older than 8.2 is trusted.
MINIMUM = (8, 2)
_VERSION_SECONDS = 30


@dataclass(frozen=True)
class Qemu:
    """A QEMU program and the version that it reports, such as (10, 0, 2)."""

    path: Path
    version: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


def find() -> Qemu:
    """Return the QEMU in PATH; raises ConfigError where there is none, or none that starts."""
    path = shutil.which(PROGRAM)
    if not path:
        raise ConfigError(
            f"{PROGRAM} is not installed; `make setup` installs it "
            "(on Debian: apt-get install qemu-system-x86, for Debian 12 from bookworm-backports)"
        )
    return Qemu(Path(path), _version(path))


def _version(path: str) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{path} does not start: {error}") from error
    found = re.search(r"version (\d+(?:\.\d+)*)", done.stdout)
    if not found:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise ConfigError(f"{path} does not tell its version: {said[0]}; install it anew")
    return tuple(int(number) for number in found[1].split("."))


@dataclass(frozen=True)
class Caution:
    """What a QEMU is not good for: `warning` in one line, and the most CPUs to give a guest."""

    warning: str
    max_cpus: int


def tcg_caution(qemu: Qemu) -> Caution | None:
    """Return what to heed when this QEMU emulates the CPU (TCG); None if it is recent enough."""
    if qemu.version >= MINIMUM:
        return None
    needed = ".".join(map(str, MINIMUM))
    return Caution(
        f"QEMU {qemu} corrupts guests with more than one CPU when it emulates them: using one; "
        f"install {needed} or newer (`make setup` takes it from backports on Debian 12)",
        max_cpus=1,
    )


def usable_cpus(qemu: Qemu, accel: Accel, wanted: int) -> int:
    """Return how many CPUs a guest may have: `wanted`, or fewer where QEMU cannot be trusted."""
    caution = tcg_caution(qemu) if accel is Accel.TCG else None
    return min(wanted, caution.max_cpus) if caution else wanted


def can_save(qemu: Qemu) -> bool:
    """Whether this QEMU can write a guest's state to a file: `migrate file:` came with 8.2."""
    return qemu.version >= MINIMUM
