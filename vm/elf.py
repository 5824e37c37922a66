# SPDX-License-Identifier: GPL-2.0-only
"""The shared libraries that an ELF file needs."""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from vm.errors import ConfigError

# "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x...)" and "/lib64/ld-linux-x86-64.so.2 (0x...)".
_LDD_LINE = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def shared_libraries(files: Iterable[Path]) -> frozenset[Path]:
    """Return every library that the dynamic linker loads for these files, the linker included.

    Raises ConfigError when one of them is not found on this machine.
    """
    listing = subprocess.run(
        ["ldd", *map(str, files)], capture_output=True, text=True, check=False
    ).stdout
    if missing := re.findall(r"(\S+) => not found", listing):
        raise ConfigError(f"{missing[0]} is missing on this machine: install the package it is in")
    return frozenset(Path(path) for path in _LDD_LINE.findall(listing))
