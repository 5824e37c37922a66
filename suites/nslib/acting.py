# SPDX-License-Identifier: GPL-2.0-only
"""An actor's program in plain Python, for where machine code cannot do: on another architecture
than x86-64, or with one CPU, on which nobody waits in a loop for somebody else.

Here the calls meet at a preemption point: one actor makes its call at once, the other one sleeps
for the lead, and its timer takes the CPU from the first one, in the middle of the call if the
kernel lets it.
"""

import ctypes
import fcntl
import os
import struct
import termios
import time
from contextlib import suppress
from typing import NoReturn

from .forking import CloneArgs, fork_with, idle
from .futexes import wake
from .idling import CLONE_CLEAR_SIGHAND, CLONE_VM
from .shots import STEP_SIZE, Act, Arena, State, Step
from .syscalls import syscall

_ACTORS = 2


class Meeting:
    """Where the actors of a race wait for each other: a counter of those that have not come, for
    machine code; a pipe, in which each that has come leaves a byte, for Python."""

    def __init__(self, arena: Arena, *, spin: bool) -> None:
        """With `spin` it is for machine code."""
        self.spin = spin
        self._arena = arena  # whose memory lasts as long as it
        self._missing = ctypes.c_int32.from_address(arena.take(4))
        self._pipe = [] if spin else list(os.pipe())

    @property
    def address(self) -> int:
        """Where the counter is."""
        return ctypes.addressof(self._missing)

    def reset(self) -> None:
        """Forget those that have come."""
        self._missing.value = _ACTORS
        if self._pipe and (came := self._came()):
            os.read(self._pipe[0], came)

    def come(self) -> None:
        """Wait until all are here."""
        os.write(self._pipe[1], b".")
        while self._came() < _ACTORS:
            os.sched_yield()

    def close(self) -> None:
        """Release the pipe."""
        for fd in self._pipe:
            os.close(fd)

    def _came(self) -> int:
        count = fcntl.ioctl(self._pipe[0], termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", count)[0])


def start(args: CloneArgs, address: int, meeting: Meeting) -> int:
    """Fork an actor that performs the program at `address`; returns its pid."""
    own = CloneArgs.from_buffer_copy(args)
    own.flags &= ~(CLONE_VM | CLONE_CLEAR_SIGHAND)
    if pid := fork_with(own):
        return pid
    try:
        _perform(address, meeting)
    finally:
        os._exit(1)


def _perform(address: int, meeting: Meeting) -> NoReturn:
    state, at, kept = State.from_address(address), address + ctypes.sizeof(State), 0
    while True:
        step = Step.from_address(at)
        if step.act & Act.SHOT:
            _meet(state, meeting)
        step.result = result = _call(step, kept, meeting)
        if step.act & Act.SHOT:
            state.end = time.monotonic_ns()
        elif result < 0:
            break
        if not step.act & Act.CHAINED:
            kept = result
        state.progress += 1
        at += STEP_SIZE
        if step.act & Act.LAST:
            break
    state.over = 1
    wake(address + State.over.offset)
    idle()


def _meet(state: State, meeting: Meeting) -> None:
    meeting.come()
    if state.delay:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        time.sleep(state.delay / 1e9)
    state.start = time.monotonic_ns()


def _call(step: Step, kept: int, meeting: Meeting) -> int:
    args = list(step.args)
    if step.act & Act.CHAINED:
        args[0] = kept
    try:
        if step.act & Act.FORK:
            return start(CloneArgs.from_address(args[0]), args[2], meeting)
        return syscall(step.number, *args)
    except OSError as error:
        return -(error.errno or 0)
