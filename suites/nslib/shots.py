# SPDX-License-Identifier: GPL-2.0-only
"""Prepared system calls: what an actor of a race does, laid out in memory before it starts.

A program is a row of steps, each one system call. One of them is the shot: the actor makes it when
all actors of the race have come that far. Both machine code and Python run it (nslib.actors).
"""

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag

from .namespaces import NS
from .syscalls import AT_FDCWD, PR_SET_PDEATHSIG

# arch/x86/entry/syscalls/syscall_64.tbl
SYS_CLOSE = 3
SYS_RT_SIGACTION = 13
SYS_IOCTL = 16
SYS_SOCKET = 41
SYS_MOUNT = 165
SYS_UMOUNT2 = 166
SYS_EXIT_GROUP = 231
SYS_WAITID = 247
SYS_UNSHARE = 272
SYS_OPEN_BY_HANDLE_AT = 304
SYS_SETNS = 308
SYS_PIDFD_SEND_SIGNAL = 424
SYS_PIDFD_OPEN = 434
_SYS_OPENAT = 257
_SYS_WRITE = 1
_SYS_PRCTL = 157
_SYS_SCHED_SETAFFINITY = 203

MAX_STEPS = 62
STEP_SIZE = 64
_STEP = struct.Struct("<II6QQ")


class Act(IntFlag):
    """What is special about a step."""

    NONE = 0
    CHAINED = 1  # its first argument is the result of the last step that was not CHAINED
    SHOT = 2  # it waits for the other actors, is timed, and may fail
    FORK = 4  # a clone3; its child goes on as the actor at the address in the third argument
    LAST = 8


@dataclass(frozen=True, slots=True)
class Call:
    """One system call with raw 64-bit arguments."""

    number: int
    args: tuple[int, ...] = ()
    act: Act = Act.NONE

    def pack(self) -> bytes:
        """The step as actors read it."""
        args = [arg & 2**64 - 1 for arg in self.args]
        return _STEP.pack(self.number, self.act, *args, *[0] * (6 - len(args)), 0)

    def chained(self) -> "Call":
        """The same, on the fd that an earlier step has opened."""
        return replace(self, act=self.act | Act.CHAINED)


class Arena:
    """Memory that a test shares with all its actors, and in which nothing is ever freed."""

    def __init__(self, size: int = 1 << 18) -> None:
        """Map `size` bytes, which last as long as the object."""
        self._map = mmap.mmap(-1, size)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._used = 0

    def take(self, size: int) -> int:
        """The address of `size` zeroed bytes, at a multiple of 64."""
        if self._used + size > len(self._map):
            raise MemoryError("the arena is full")
        address = self.start + self._used
        self._used += size + 63 & ~63
        return address

    def keep(self, data: bytes) -> int:
        """The address of a copy of `data`."""
        address = self.take(len(data))
        ctypes.memmove(address, data, len(data))
        return address


@dataclass(frozen=True, slots=True)
class Program:
    """The steps of an actor, and the place of the shot among them (behind them: none)."""

    image: bytes
    shot: int
    exits: bool
    """Whether the actor does not return from the shot."""

    @property
    def length(self) -> int:
        """How many steps it has."""
        return len(self.image) // STEP_SIZE

    def place(self, argument: int) -> int:
        """Offset of an argument of the shot in the image, for filling it in."""
        return self.shot * STEP_SIZE + 8 + argument * 8


def program(
    before: Sequence[Call], shot: Call | None = None, after: Sequence[Call] = ()
) -> Program:
    """What an actor does: calls that must succeed, the shot, and calls for when it is over."""
    middle = [replace(shot, act=shot.act | Act.SHOT)] if shot else []
    calls = [*before, *middle, *after]
    if len(calls) > MAX_STEPS:
        raise ValueError(f"{len(calls)} steps are too many")
    calls[-1] = replace(calls[-1], act=calls[-1].act | Act.LAST)
    exits = shot is not None and shot.number == SYS_EXIT_GROUP
    return Program(b"".join(call.pack() for call in calls), len(before), exits)


EXIT = Call(SYS_EXIT_GROUP, (0,))
WAIT_FOR_CHILD = Call(SYS_WAITID, (os.P_ALL, 0, 0, os.WEXITED))


def settle(arena: Arena, cpu: int) -> list[Call]:
    """The first steps of every actor: to its CPU, and to end with its creator."""
    mask = arena.keep((1 << cpu).to_bytes(8, "little"))
    return [
        Call(_SYS_PRCTL, (PR_SET_PDEATHSIG, signal.SIGKILL)),
        Call(_SYS_SCHED_SETAFFINITY, (0, 8, mask)),
    ]


def enter(arena: Arena, kinds: NS, depth: int = 1) -> list[Call]:
    """Steps into new user namespaces, one in the other, and new `kinds` in the innermost."""
    levels = [step for _ in range(depth - 1) for step in _level(arena)]
    flags = kinds | NS.USER if depth else kinds
    return [*levels, Call(SYS_UNSHARE, (flags,))]


def _level(arena: Arena) -> list[Call]:
    # A creator without a mapping cannot make the next one (kernel/user_namespace.c).
    files = {"setgroups": b"deny", "uid_map": b"0 0 1", "gid_map": b"0 0 1"}
    writes = [
        step for name, text in files.items() for step in _write(arena, f"/proc/self/{name}", text)
    ]
    return [Call(SYS_UNSHARE, (NS.USER,)), *writes]


def _write(arena: Arena, path: str, text: bytes) -> list[Call]:
    address = arena.keep(os.fsencode(path) + b"\0")
    return [
        Call(_SYS_OPENAT, (AT_FDCWD, address, os.O_WRONLY | os.O_CLOEXEC)),
        Call(_SYS_WRITE, (0, arena.keep(text), len(text))).chained(),
        Call(SYS_CLOSE).chained(),
    ]
