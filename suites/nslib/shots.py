# SPDX-License-Identifier: GPL-2.0-only
"""Prepared system calls: what an actor of a race does, laid out in memory before it starts.

A program is a row of steps, each one system call. One of them is the shot: the actor makes it when
all actors of the race have come that far. Both machine code and Python run it (nslib.actors).
"""

import ctypes
import mmap
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag

from .namespaces import NS
from .syscalls import AT_FDCWD, PR_SET_PDEATHSIG

_X86_64 = os.uname().machine == "x86_64"


def _number(x86_64: int, generic: int) -> int:
    """A system call's number (arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl)."""
    return x86_64 if _X86_64 else generic


SYS_CLOSE = _number(3, 57)
SYS_RT_SIGACTION = _number(13, 134)
SYS_IOCTL = _number(16, 29)
_SYS_SOCKET = _number(41, 198)
SYS_MOUNT = _number(165, 40)
SYS_UMOUNT2 = _number(166, 39)
SYS_FUTEX = _number(202, 98)
SYS_EXIT_GROUP = _number(231, 94)
SYS_WAITID = _number(247, 95)
SYS_UNSHARE = _number(272, 97)
SYS_OPEN_BY_HANDLE_AT = _number(304, 265)
SYS_SETNS = _number(308, 268)
SYS_PIDFD_SEND_SIGNAL = 424
SYS_PIDFD_OPEN = 434
_SYS_OPENAT = _number(257, 56)
_SYS_WRITE = _number(1, 64)
_SYS_PRCTL = _number(157, 167)
_SYS_SCHED_SETAFFINITY = _number(203, 122)

MAX_STEPS = 62


class Act(IntFlag):
    """What is special about a step."""

    NONE = 0
    CHAINED = 1  # its first argument is the result of the last step that was not CHAINED
    SHOT = 2  # it waits for the other actors, is timed, and may fail
    FORK = 4  # a clone3; its child goes on as the actor at the address in the third argument
    LAST = 8


class State(ctypes.Structure):
    """What an actor and its creator tell each other; the steps follow it in memory."""

    _fields_ = [
        ("delay", ctypes.c_uint64),
        ("meeting", ctypes.c_uint64),
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("progress", ctypes.c_uint32),
        ("over", ctypes.c_uint32),
        ("unused", ctypes.c_uint8 * 24),
    ]


class Step(ctypes.Structure):
    """A system call in an actor's memory."""

    _fields_ = [
        ("number", ctypes.c_uint32),
        ("act", ctypes.c_uint32),
        ("args", ctypes.c_uint64 * 6),
        ("result", ctypes.c_int64),
    ]


STEP_SIZE = ctypes.sizeof(Step)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call with raw 64-bit arguments."""

    number: int
    args: tuple[int, ...] = ()
    act: Act = Act.NONE

    def pack(self) -> bytes:
        """The step as actors read it."""
        args = (ctypes.c_uint64 * 6)(*self.args)
        return bytes(Step(self.number, self.act, args))

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
SOCKET = Call(_SYS_SOCKET, (2, 2, 0))  # AF_INET, SOCK_DGRAM
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
