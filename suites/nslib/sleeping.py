# SPDX-License-Identifier: GPL-2.0-only
"""Processes that do nothing but sleep, for where a namespace only needs a member.

They share the memory of their creator instead of copying its page tables, which is what makes a
fork take 20 ms in a slow guest: a sleeper takes one. It runs a few instructions of its own and
touches neither memory nor stack, so that its creator goes on beside it. x86-64 only.
"""

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, Self

from .exits import ExitStatus, collect, has_ended
from .forking import (
    CLONE_PIDFD,
    CloneArgs,
    exit_signal,
    fork_into,
    idle,
    pid_in_proc,
    pids_by_level,
    status_field,
)
from .idling import CLONE_CLEAR_SIGHAND, CLONE_VM
from .ids import owned
from .memory import executable
from .namespaces import NS
from .waiting import wait_until

_END_SECONDS = 3.0

# long f(struct clone_args *rdi, size_t rsi, int edx, int *rcx), which returns in the creator only.
_CODE = bytes.fromhex(
    "f0ff09"  # lock dec dword [rcx]
    "f390"  # meet: pause
    "833900"  # cmp dword [rcx], 0
    "75f9"  # jne meet
    "b8b3010000"  # mov eax, 435: clone3(rdi, rsi)
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7401"  # jz child
    "c3"  # ret: the pid, or the negative errno
    "bf01000000"  # child: mov edi, 1: PR_SET_PDEATHSIG
    "89d6"  # mov esi, edx
    "b89d000000"  # mov eax, 157: prctl(edi, esi)
    "0f05"  # syscall
    "31ff"  # xor edi, edi
    "83ceff"  # or esi, -1
    "31d2"  # xor edx, edx
    "b8b4010000"  # mov eax, 436: close_range(0, UINT_MAX, 0)
    "0f05"  # syscall
    "b822000000"  # sleep: mov eax, 34: pause()
    "0f05"  # syscall
    "ebf7"  # jmp sleep
)


@cache
def _clone() -> Any:
    start, pointer = executable(_CODE), ctypes.c_void_p
    return ctypes.CFUNCTYPE(ctypes.c_long, pointer, ctypes.c_size_t, ctypes.c_int, pointer)(start)


def clone_sleeper(
    args: CloneArgs, death_signal: int = signal.SIGKILL, missing: ctypes.c_int | None = None
) -> int:
    """clone3(2) of a sleeper with `args`; returns its pid, maybe before it has closed its fds.

    Its signal handlers are the default ones, and it gets `death_signal` (0: none) when the thread
    that made it ends. Threads that share `missing`, their number, make the system call at once.
    """
    missing = missing or ctypes.c_int(1)
    args.flags |= CLONE_VM | CLONE_CLEAR_SIGHAND
    others = ctypes.addressof(missing)
    result = int(_clone()(ctypes.addressof(args), ctypes.sizeof(args), death_signal, others))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def start_sleeper(
    flags: int = NS.NONE,
    set_tid: Sequence[int] = (),
    *,
    death_signal: int = signal.SIGKILL,
    missing: ctypes.c_int | None = None,
) -> int:
    """Make a sleeper in new namespaces, with pids of one's choice (innermost namespace first);
    returns a pidfd. It has no fds. Whoever calls this without a Sleeper has to end it, unless its
    pid namespace ends anyway."""
    pidfd = ctypes.c_int(-1)
    tids = (ctypes.c_int * len(set_tid))(*set_tid)
    args = CloneArgs(
        flags=flags | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=exit_signal(flags),
        set_tid=ctypes.addressof(tids) if set_tid else 0,
        set_tid_size=len(set_tid),
    )
    # Inherited fds would keep namespaces active that the test believes closed.
    reader, writer = os.pipe()
    try:
        with owned(writer):
            clone_sleeper(args, death_signal, missing)
        os.read(reader, 1)  # ends when the sleeper has closed the other end
    finally:
        os.close(reader)
    return pidfd.value


def start_idle(namespaces: NS) -> int:
    """Make a child in new `namespaces` that does nothing but wait for a signal; returns a pidfd.

    It is a sleeper where it can be one: who shares memory cannot have a time namespace of its own
    (kernel/fork.c, copy_process).
    """
    if not namespaces & NS.TIME and os.uname().machine == "x86_64":
        return start_sleeper(namespaces)
    pid, pidfd = fork_into(namespaces)
    if pid == 0:
        idle()
    return pidfd


def sleeper_in(
    flags: int = NS.NONE, set_tid: Sequence[int] = (), *, death_signal: int = signal.SIGKILL
) -> int:
    """For Task.call() in a pid namespace, with whose init the sleeper ends: make a sleeper, and
    return its pid in /proc."""
    return pid_in_proc(start_sleeper(flags, set_tid, death_signal=death_signal))


def settled_state(pid: int) -> str:
    """Wait until a process does not run; returns its state then: S asleep, T stopped, Z zombie, I
    idle, which is how an init waits for the rest of its pid namespace (proc_pid_stat(5))."""
    return wait_until(lambda: status_field(pid, "State")[0].strip("RD"), f"pause of process {pid}")


class Sleeper:
    """A child process of the caller that sleeps; it ends with the `with` block."""

    def __init__(
        self, flags: int = NS.NONE, set_tid: Sequence[int] = (), *, pidfd: int | None = None
    ) -> None:
        """Make one as start_sleeper() does, or take over the one behind `pidfd`."""
        self.pidfd = start_sleeper(flags, set_tid) if pidfd is None else pidfd
        self._reaped = False

    @cached_property
    def pid(self) -> int:
        """Its pid in /proc; to be asked for before it is reaped."""
        return pid_in_proc(self.pidfd)

    @property
    def pids(self) -> list[int]:
        """Its pid in each pid namespace, from that of /proc to its own."""
        return pids_by_level(self.pid)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; returns at once."""
        signal.pidfd_send_signal(self.pidfd, number)

    def ended(self, seconds: float = 0) -> bool:
        """Whether it has ended, or does within `seconds` (scaled)."""
        return has_ended(self.pidfd, seconds)

    def wait(self, *, reap: bool = True) -> ExitStatus:
        """Wait until it has ended by itself, and reap it (or leave it a zombie); TimeoutError if
        it does not end."""
        if not self.ended(_END_SECONDS):
            raise TimeoutError(f"sleeper {self.pid} does not end")
        self._reaped = reap
        return collect(self.pidfd, reap=reap)

    def zombie(self) -> ExitStatus:
        """Kill it and leave it a zombie."""
        self.kill()
        return self.wait(reap=False)

    def reap(self) -> ExitStatus:
        """Kill it, unless it is a zombie already, and reap it."""
        self.kill()
        return self.wait()

    def close(self) -> None:
        """End and reap it if that has not been done yet, and drop its pidfd."""
        try:
            if not self._reaped:
                self.reap()
        finally:
            os.close(self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def sleepers(count: int) -> Iterator[list[Sleeper]]:
    """Several at once, which end after the block."""
    if not count:
        yield []
        return
    with Sleeper() as first, sleepers(count - 1) as others:
        yield [first, *others]


def sleeper_errno(flags: int = NS.NONE, set_tid: Sequence[int] = ()) -> int:
    """The errno with which clone3 fails to make a sleeper; 0 if it succeeds (and is ended)."""
    try:
        with Sleeper(flags, set_tid):
            return 0
    except OSError as error:
        return error.errno or 0
