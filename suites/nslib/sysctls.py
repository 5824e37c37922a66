# SPDX-License-Identifier: GPL-2.0-only
"""Numbers in /proc/sys, many of which belong to a namespace of the caller."""

import os
from pathlib import Path


def get_sysctl(name: str) -> int:
    """The number in a file below /proc/sys, such as "kernel/pid_max"."""
    return int(Path("/proc/sys", name).read_text())


def set_sysctl(name: str, value: int | str) -> None:
    """Write a number (or, to see it refused, something else) to a file below /proc/sys."""
    Path("/proc/sys", name).write_text(str(value))


def open_sysctl(name: str) -> None:
    """Open a file below /proc/sys for writing, for which permission is needed, and leave it be."""
    os.close(os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC))
