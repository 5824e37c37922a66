# SPDX-License-Identifier: GPL-2.0-only
"""Scripts: system calls that a puppet makes one after the other (nslib.puppets). x86-64 only."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

SLOT_SIZE = 0x2000
"""Bytes of memory that a puppet has for what it is told."""
CALLS_AT = 64
"""Where in that memory the calls are; behind them is their data."""
CALL = struct.Struct("<10Q")
"""A call: its number, six arguments, its result, two addresses to which the result goes too."""
RESULT_AT = 56
"""Where in a call its result is."""
MOST_CALLS = 48
_DATA_AT = CALLS_AT + MOST_CALLS * CALL.size


class Sys(IntEnum):
    """Numbers of system calls (arch/x86/entry/syscalls/syscall_64.tbl)."""

    WRITE = 1
    CLOSE = 3
    IOCTL = 16
    GETPID = 39
    SOCKET = 41
    SENDMSG = 46
    RECVMSG = 47
    SOCKETPAIR = 53
    READLINK = 89
    SETRESUID = 117
    SETRESGID = 119
    CAPSET = 126
    PRCTL = 157
    MOUNT = 165
    UMOUNT2 = 166
    WAITID = 247
    OPENAT = 257
    UNSHARE = 272
    OPEN_BY_HANDLE_AT = 304
    SETNS = 308
    PIDFD_OPEN = 434
    CLONE3 = 435
    CLOSE_RANGE = 436
    LISTNS = 470


class Performer(Protocol):
    """Who performs a script: a puppet, with memory of its own from `address` on."""

    @property
    def address(self) -> int:
        """Where its memory begins, as it sees it."""

    def write(self, offset: int, content: bytes) -> None:
        """Put bytes into its memory."""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of its memory."""

    def perform(self, calls: list[list[int]]) -> list[int]:
        """Make the calls; returns their results, or negative errnos."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call of a script returns; two later calls of it can have that as an argument."""

    index: int


class Script:
    """System calls, and the memory that they refer to."""

    def __init__(self, puppet: Performer) -> None:
        """An empty script for a puppet, who has one at a time."""
        self._puppet = puppet
        self._calls: list[list[int]] = []
        self._end = _DATA_AT

    def call(self, number: int, *args: int | Result) -> Result:
        """Add a system call; its arguments are numbers, addresses, or results of calls before."""
        if len(self._calls) == MOST_CALLS:
            raise ValueError("too many calls for one script")
        own = self._puppet.address + CALLS_AT + len(self._calls) * CALL.size
        values = [0 if isinstance(arg, Result) else arg & 2**64 - 1 for arg in args]
        result = own + RESULT_AT
        self._calls.append([number, *values, *[0] * (7 - len(values)), result, result])
        for position, arg in enumerate(args, 1):
            if isinstance(arg, Result):
                places = self._calls[arg.index]
                places[8 if places[8] == places[9] else 9] = own + 8 * position
        return Result(len(self._calls) - 1)

    def data(self, content: bytes) -> int:
        """Put bytes into the puppet's memory; returns their address there."""
        start, self._end = self._end, self._end + (len(content) + 7 & ~7)
        if self._end > SLOT_SIZE:
            raise ValueError("too much data for one script")
        self._puppet.write(start, content)
        return self._puppet.address + start

    def text(self, text: str) -> int:
        """Put a string into the puppet's memory; returns its address there."""
        return self.data(text.encode() + b"\0")

    def perform(self) -> list[int]:
        """Have the puppet make the calls; returns their results, or negative errnos."""
        return self._puppet.perform(self._calls)

    def peek(self, address: int, size: int) -> bytes:
        """What is at an address of data()."""
        return self._puppet.read(address - self._puppet.address, size)
