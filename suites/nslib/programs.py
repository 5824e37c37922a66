# SPDX-License-Identifier: GPL-2.0-only
"""A program that can take the place of a task, where no other is at hand or starts quickly.

x86-64 only, as every address in these tests.
"""

import os
import struct
from collections.abc import Callable

from .ids import owned
from .tasks import Task, TaskEndedError

_BASE = 0x400000
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr (include/uapi/linux/elf.h)
_PHDR = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_EXEC, _X86_64, _LOAD, _READ_EXECUTE = 2, 62, 1, 5
_CODE = bytes.fromhex(
    "b801000000 bf01000000 be00004000 ba01000000 0f05"  # write(1, _BASE, 1)
    "b822000000 0f05 ebf7"  # pause(), for ever
)


def elf(code: bytes) -> bytes:
    """An executable that runs machine code which is not written to, and neither has a stack."""
    start = _EHDR.size + _PHDR.size
    size = start + len(code)
    header = (_IDENT, _EXEC, _X86_64, 1, _BASE + start, _EHDR.size, 0, 0)
    sizes = (_EHDR.size, _PHDR.size, 1, 0, 0, 0)
    segment = _PHDR.pack(_LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, 0x1000)
    return _EHDR.pack(*header, *sizes) + segment + code


PROGRAM = elf(_CODE)
"""An executable that writes one byte to fd 1 and then waits for a signal."""


def execute(output: int) -> None:
    """Replace the calling process by PROGRAM, whose fd 1 is `output`; raises OSError."""
    fd = os.memfd_create("program")
    os.write(fd, PROGRAM)
    os.dup2(output, 1)
    os.execve(fd, ["program"], {})  # noqa: S606 - no shell is there


def replace_by_program(task: Task, executing: Callable[[int], None] = execute) -> None:
    """Have a task replace itself by PROGRAM; returns when that runs.

    `executing` is called in the task with the fd that is to be PROGRAM's fd 1.
    """
    reader, writer = os.pipe()
    with owned(reader):
        with owned(writer):
            task.begin(executing, task.give(writer))
        if not os.read(reader, 1):
            raise TaskEndedError(f"task {task.pid} ended in execve()")
