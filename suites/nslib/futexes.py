# SPDX-License-Identifier: GPL-2.0-only
"""Futexes: words in shared memory whose change a process waits for (futex(2))."""

import ctypes

from .shots import SYS_FUTEX
from .syscalls import syscall

_WAIT, _WAKE = 0, 1  # include/uapi/linux/futex.h
_libc = ctypes.CDLL(None)


def wait_while(address: int, value: int, seconds: float) -> None:
    """Wait while the 32-bit word at `address` is `value`, for so many seconds at the most; it can
    end earlier, whatever the word is then."""
    whole, rest = divmod(seconds, 1)
    timeout = (ctypes.c_long * 2)(int(whole), int(rest * 1e9))  # struct timespec
    _libc.syscall(ctypes.c_long(SYS_FUTEX), ctypes.c_void_p(address), _WAIT, value, timeout)


def wake(address: int) -> None:
    """Wake a process that waits for the word at `address`."""
    syscall(SYS_FUTEX, address, _WAKE, 1)
