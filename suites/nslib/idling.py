# SPDX-License-Identifier: GPL-2.0-only
"""Processes that do nothing: a namespace needs a member.

They cost a twentieth of a Task, since they share the memory of their creator.
"""

import ctypes
import os
import signal
from contextlib import suppress
from typing import Self

from .forking import CLONE_PIDFD

CLONE_VM = 0x100  # include/uapi/linux/sched.h, as all of this block
CLONE_FS = 0x200
CLONE_FILES = 0x400
CLONE_SIGHAND = 0x800
CLONE_THREAD = 0x10000
CLONE_SYSVSEM = 0x40000
CLONE_CLEAR_SIGHAND = 0x100000000

_STACK_SIZE = 16384
_WALL = 0x40000000  # Whatever the exit signal: `flags` can hold another than SIGCHLD.
_ALWAYS = CLONE_VM | CLONE_FILES | CLONE_PIDFD | signal.SIGCHLD
_libc = ctypes.CDLL(None, use_errno=True)


class Idle:
    """A child made by clone(2) with CLONE_* `flags`, which waits until the `with` block ends it.

    It shares memory with its creator, who is therefore not single-threaded to the kernel where
    that goes by memory (current_is_single_threaded(): time namespaces). It shares the fds too, so
    that it holds none open; it outlives a creator that is killed.
    """

    def __init__(self, flags: int = 0) -> None:
        """Make the child; `pid` is its number in the caller's pid namespace."""
        self._stack = ctypes.create_string_buffer(_STACK_SIZE)
        top = ctypes.addressof(self._stack) + _STACK_SIZE & ~15
        pidfd = ctypes.c_int(-1)
        self.pid = _libc.clone(
            _libc.pause,
            ctypes.c_void_p(top),
            ctypes.c_int(ctypes.c_int(flags | _ALWAYS).value),
            None,
            ctypes.byref(pidfd),
        )
        if self.pid == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.pidfd = pidfd.value
        self._reaped = False

    def kill(self) -> None:
        """Send SIGKILL; returns at once."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def zombie(self) -> None:
        """Kill the child and leave it a zombie."""
        self.kill()
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT | _WALL)

    def reap(self) -> None:
        """Kill the child and reap it; `pidfd` stays open until the end of the block."""
        with suppress(ProcessLookupError):
            self.kill()
        self.wait()

    def wait(self) -> os.waitid_result | None:
        """Wait until the child has ended, and reap it; gives how, unless the kernel reaped it."""
        self._reaped = True
        with suppress(ChildProcessError):  # SIGCHLD is ignored
            return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | _WALL)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._reaped:
                self.reap()
        finally:
            os.close(self.pidfd)
