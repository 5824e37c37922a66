# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log as a guest reads it: Documentation/ABI/testing/dev-kmsg."""

import os
import re

_RECORD_LIMIT = 8192
_TAINT = "/proc/sys/kernel/tainted"


class KernelLog:
    """Reads the kernel's messages as they come and leaves marks between them."""

    def __init__(self) -> None:
        self._reader = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._writer = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
        os.lseek(self._reader, 0, os.SEEK_END)

    def mark(self, text: str) -> None:
        """Write a line of our own, which shows on the console among the kernel's."""
        os.write(self._writer, f"<6>nsconform: {text}\n".encode())

    def new_lines(self) -> list[str]:
        """Return the messages since the last call that the kernel itself has written."""
        lines = []
        while record := self._read():
            header, _, text = record.partition(b";")
            # The priority is facility * 8 + level, and facility 0 is the kernel.
            if int(header.split(b",", 1)[0]) < 8:
                lines.append(text.split(b"\n", 1)[0].decode(errors="replace"))
        return lines

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._reader, _RECORD_LIMIT)
            except BlockingIOError:
                return b""
            except BrokenPipeError:
                # Messages were overwritten before we came to read them; the next read goes on
                # behind the gap.
                continue


def taint() -> int:
    """Return the kernel's taint flags (Documentation/admin-guide/tainted-kernels.rst)."""
    with open(_TAINT) as file:
        return int(file.read())


def matching(lines: list[str], pattern: str) -> list[str]:
    """Return the lines in which `pattern` is found."""
    search = re.compile(pattern).search
    return [line for line in lines if search(line)]
