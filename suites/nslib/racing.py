# SPDX-License-Identifier: GPL-2.0-only
"""A task that exits at a moment of the caller's choice, to within microseconds."""

import ctypes
import mmap
import os
from functools import cache
from types import TracebackType

from .idling import Idle

# x86-64: wait while *rdi is 0, count the word behind it down to 0, exit(2).
_WAIT_AND_EXIT = bytes.fromhex(
    "8b07 85c0 7504 6690 ebf6"  # mov (%rdi), %eax; test; jnz; nop; jmp
    "8b4f04 85c9 7406 ffc9 6690 ebf6"  # mov 4(%rdi), %ecx; test; jz; dec; nop; jmp
    "b83c000000 31ff 0f05"  # mov $SYS_exit, %eax; xor %edi, %edi; syscall
)


_TURNS_PER_PYTHON_TURN = 30


@cache
def _code() -> mmap.mmap:
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_WAIT_AND_EXIT)
    return memory


class Leaver(Idle):
    """An Idle child that exits by itself `delay` turns of an empty loop after leave().

    Both run all the time: the child on a processor of its own if there is one.
    """

    def __init__(self, flags: int = 0, *, delay: int = 0) -> None:
        """Make the child; `flags` as for Idle."""
        self._signal = (ctypes.c_uint32 * 2)(0, delay)
        start = ctypes.addressof(ctypes.c_char.from_buffer(_code()))
        super().__init__(flags, entry=start, argument=ctypes.addressof(self._signal))
        self._processors = os.sched_getaffinity(0)
        own, *others = sorted(self._processors)
        if others:
            os.sched_setaffinity(0, {own})
            os.sched_setaffinity(self.pid, set(others))

    def leave(self) -> None:
        """Let the child exit; returns at once."""
        self._signal[0] = 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        os.sched_setaffinity(0, self._processors)


class Edge:
    """Finds the delay at which one of two outcomes turns into the other, and stays about there."""

    def __init__(self) -> None:
        """Begin with no delay on either side."""
        self._delay = 0
        self._step = 1000
        self._last: bool | None = None

    @property
    def delay(self) -> int:
        """How many turns of a Leaver's loop it shall wait."""
        return max(0, self._delay)

    def wait(self) -> None:
        """Give a Leaver a lead instead, if it has to leave before the caller goes on."""
        for _ in range(max(0, -self._delay) // _TURNS_PER_PYTHON_TURN):
            pass

    def move(self, *, later: bool) -> None:
        """Have the Leaver leave later next time, or earlier; by less after each turn."""
        if self._last is not None:
            self._step = max(self._step // 2, 50) if self._last != later else self._step * 5 // 4
        self._last = later
        self._delay += self._step if later else -self._step
