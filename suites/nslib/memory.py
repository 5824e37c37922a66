# SPDX-License-Identifier: GPL-2.0-only
"""Memory at known addresses: for calls that must fault at a chosen byte, and for machine code."""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .syscalls import mmap_anonymous, mprotect, munmap

PAGE_SIZE = mmap.PAGESIZE
KERNEL_ADDRESS = 0xFFFF800000000000
"""An address in the kernel half of the address space on x86-64: access_ok() refuses it."""
UNMAPPED_ADDRESS = 0xDEAD000
"""An address in the user half where nothing is mapped: below every mapping of a 64-bit program."""
_PROT_NONE, _PROT_READ, _PROT_READ_EXEC = 0, 1, 5  # include/uapi/asm-generic/mman-common.h


@dataclass(frozen=True, slots=True)
class Room:
    """`size` bytes of zeroed memory from `start`; the byte at `end` cannot be accessed."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """Address of the first byte that faults."""
        return self.start + self.size

    def place_at_end(self, data: bytes) -> int:
        """Write `data` so that its last byte is the last accessible one; returns its address."""
        return poke(self.end - len(data), data)

    def make_read_only(self) -> None:
        """From now on a write to the room faults."""
        mprotect(self.start, self.size, _PROT_READ)


@contextmanager
def guarded_room(pages: int = 1) -> Iterator[Room]:
    """Fresh memory of whole pages, followed by a page without access."""
    size = pages * PAGE_SIZE
    start = mmap_anonymous(size + PAGE_SIZE)
    try:
        mprotect(start + size, PAGE_SIZE, _PROT_NONE)
        yield Room(start, size)
    finally:
        munmap(start, size + PAGE_SIZE)


def executable(code: bytes) -> int:
    """The address of at most a page of machine code, which stays there."""
    start = poke(mmap_anonymous(PAGE_SIZE), code)
    mprotect(start, PAGE_SIZE, _PROT_READ_EXEC)
    return start


def poke(address: int, data: bytes) -> int:
    """Copy `data` to `address`, which is returned."""
    ctypes.memmove(address, data, len(data))
    return address


def peek(address: int, size: int) -> bytes:
    """The `size` bytes at `address`."""
    return ctypes.string_at(address, size)


def read_ids(address: int, count: int) -> list[int]:
    """The `count` 64-bit numbers at `address`, which may be unaligned."""
    return list(memoryview(peek(address, count * 8)).cast("Q"))
