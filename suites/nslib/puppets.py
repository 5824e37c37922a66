# SPDX-License-Identifier: GPL-2.0-only
"""Puppets: processes of a few kilobytes that make the system calls they are told to.

A fork of Python takes a slow guest 20 ms; a puppet forks in one, as there is next to no memory to
copy. Unlike a Sleeper it has memory of its own, and so can have a time namespace of its own. What
it is told, and what it answers, lies in memory that it shares with Python. x86-64 only.
"""

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .exits import has_ended
from .forking import CloneArgs, exit_signal
from .futexes import wait_while, wake
from .ids import owned
from .programs import elf
from .scripts import CALL, CALLS_AT, RESULT_AT, SLOT_SIZE, Script, Sys
from .waiting import scaled

_ADDRESS, _SIZE, _FD = 0x10000000, 0x40000, 3  # of the shared memory, in every puppet
_SLOTS = _SIZE // SLOT_SIZE - 1
_PATIENCE = struct.pack("<qq", 120, 0)  # seconds; then whoever told it what to do is gone
_PATIENCE_AT = _SIZE - 16
_TURN, _ORDER = struct.Struct("<I"), struct.Struct("<QQ")
_IDLE, _TOLD = 0, 1
_ANSWER_SECONDS = 5.0
_LOOK_SECONDS = 0.2

# A slot: its turn (a futex), how many calls, the slot for a child; then the calls, then their data.
_CODE = bytes.fromhex(
    "b809000000 bf00000010 be00000400 ba03000000 41ba11000000 41b803000000 4531c9"
    "0f05 4989c4"  # r12 = mmap(_ADDRESS, _SIZE, READ|WRITE, SHARED|FIXED, _FD, 0)
    "41833c2401 7421"  # wait: if it is told something, perform
    "b8ca000000 4c89e7 31f6 31d2 41baf0ff0310 0f05"  # futex(r12, WAIT, _IDLE, patience)
    "4883f892 75df b83c000000 0f05"  # wait again, but exit(2) at -ETIMEDOUT
    "4d8b6c2408 498d5c2440"  # perform: r13 = how many, rbx = the first
    "488b03 488b7b08 488b7310 488b5318 4c8b5320 4c8b4328 4c8b4b30 0f05"  # next: the system call
    "4885c0 750f 813bb3010000 7507 4d8b642410 eb1b"  # in a child of clone3(2): r12 = its slot; done
    "48894338 488b5340 488902 488b5348 488902"  # the result goes to three places
    "4883c350 49ffcd 75b4"  # and then the next one
    "41c7042400000000 b8ca000000 4c89e7 be01000000 89f2 0f05"  # done: futex(r12, WAKE, 1)
    "e964ffffff"
)


class PuppetEndedError(Exception):
    """The puppet ended before it answered, or does not answer."""


class Puppet:
    """A process that does nothing by itself; `pid` as in the mounted /proc."""

    def __init__(self, troupe: "Troupe", slot: int) -> None:
        """One to be, with a slot of the troupe's memory."""
        self._troupe = troupe
        self.slot = slot
        self.address = _ADDRESS + slot * SLOT_SIZE
        self._offset = slot * SLOT_SIZE
        self.pid = self.pidfd = -1

    def script(self) -> Script:
        """A new script, in place of the last one."""
        return Script(self)

    def perform(self, calls: list[list[int]]) -> list[int]:
        """Make the calls of a script; returns their results, or negative errnos."""
        self._tell(calls)
        self.await_answer()
        return [self._result(i) for i in range(len(calls))]

    def fork(self, flags: int) -> "Puppet | int":
        """clone3(2) with CLONE_* flags: the new puppet, a child of this one, or the errno.

        With CLONE_PARENT it is a child of this one's parent.
        """
        child = self._troupe.cast()
        args = CloneArgs(flags=flags, exit_signal=exit_signal(flags))
        script = self.script()
        call = [Sys.CLONE3, script.data(bytes(args)), ctypes.sizeof(args), *[0] * 5]
        own = self.address + CALLS_AT + RESULT_AT
        child.write(0, _TURN.pack(_TOLD))
        self._tell([[*call, own, own]], child.address)
        self.await_answer()
        if (result := self._result(0)) < 0:
            self._troupe.dismiss(child)
            return -result
        child.await_answer()
        child.introduce()
        return child

    def introduce(self) -> None:
        """Find out who it is, in the pid namespace of the mounted /proc."""
        script = self.script()
        name = script.data(bytes(16))
        script.call(Sys.READLINK, script.text("/proc/self"), name, 16)
        if (size := script.perform()[0]) < 0:
            raise OSError(-size, os.strerror(-size))
        self.pid = int(script.peek(name, size))
        self.pidfd = os.pidfd_open(self.pid)

    def await_answer(self) -> None:
        """Return when it has done what it was told; PuppetEndedError if it never will."""
        address = self._troupe.base + self._offset
        looks = scaled(_ANSWER_SECONDS) / _LOOK_SECONDS
        while self._turn() == _TOLD:
            wait_while(address, _TOLD, _LOOK_SECONDS)
            looks -= 1
            is_hopeless = looks < 0 or (self.pidfd >= 0 and has_ended(self.pidfd))
            if is_hopeless and self._turn() == _TOLD:
                raise PuppetEndedError(f"puppet {self.pid} does not answer")

    def kill(self) -> None:
        """End it, if it has not ended; returns at once."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def release(self) -> None:
        """Give its slot and pidfd back; the process has been reaped."""
        os.close(self.pidfd)
        self._troupe.dismiss(self)

    def write(self, offset: int, content: bytes) -> None:
        """Put bytes into its slot."""
        start = self._offset + offset
        self._troupe.memory[start : start + len(content)] = content

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of its slot."""
        start = self._offset + offset
        return self._troupe.memory[start : start + size]

    def _tell(self, calls: list[list[int]], child: int = 0) -> None:
        """Let it begin with calls; `child` is the address of the slot for a child."""
        memory, start = self._troupe.memory, self._offset + CALLS_AT
        for i, call in enumerate(calls):
            CALL.pack_into(memory, start + i * CALL.size, *call)
        _ORDER.pack_into(memory, self._offset + 8, len(calls), child)
        self.write(0, _TURN.pack(_TOLD))
        wake(self._troupe.base + self._offset)

    def _turn(self) -> int:
        return self._troupe.memory[self._offset]

    def _result(self, index: int) -> int:
        at = CALLS_AT + index * CALL.size + RESULT_AT
        return int.from_bytes(self.read(at, 8), "little", signed=True)


class Troupe:
    """The memory that puppets share with Python, and who has which part of it."""

    def __init__(self, memory: mmap.mmap) -> None:
        """`memory` is what they share."""
        self.memory = memory
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._free = list(reversed(range(_SLOTS)))
        memory[_PATIENCE_AT:] = _PATIENCE

    def cast(self) -> Puppet:
        """A puppet to be, with a slot of its own; IndexError if all are taken."""
        return Puppet(self, self._free.pop())

    def dismiss(self, puppet: Puppet) -> None:
        """Let its slot be another's."""
        self._free.append(puppet.slot)


@contextmanager
def first_puppet() -> Iterator[Puppet]:
    """A puppet that is a child of this process, with no fds, for the block; it makes the others.

    They have to be ended before. None outlives Python for long: after two minutes in which it was
    told nothing a puppet exits.
    """
    with owned(os.memfd_create("puppets")) as shared, owned(os.memfd_create("program")) as program:
        os.ftruncate(shared, _SIZE)
        os.write(program, elf(_CODE))
        with mmap.mmap(shared, _SIZE) as memory:
            puppet = Troupe(memory).cast()
            path, move = f"/proc/self/fd/{program}", (os.POSIX_SPAWN_DUP2, shared, _FD)
            puppet.pid = os.posix_spawn(path, ["puppet"], {}, file_actions=[move])
            puppet.pidfd = os.pidfd_open(puppet.pid)
            try:
                script = puppet.script()
                script.call(Sys.CLOSE_RANGE, 0, 2**32 - 1, 0)
                script.perform()
                yield puppet
            finally:
                puppet.kill()
                os.waitid(os.P_PIDFD, puppet.pidfd, os.WEXITED)
                puppet.release()
