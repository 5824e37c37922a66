# SPDX-License-Identifier: GPL-2.0-only
"""A fork whose child starts in new namespaces, the active time and pid namespace included.

unshare(2) and then fork(2) would need two forks for these two types, and would make the task a
grandchild that its creator cannot wait for.
"""

import ctypes
import os
import signal
from pathlib import Path
from typing import NoReturn

from .namespaces import NS
from .syscalls import clone3

CLONE_PIDFD = 0x1000  # include/uapi/linux/sched.h, as all of this block
CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 1 << 33
CLONE_AUTOREAP = 1 << 34


class CloneArgs(ctypes.Structure):
    """struct clone_args, version 2 (include/uapi/linux/sched.h, Linux 5.7)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def exit_signal(flags: int) -> int:
    """With what a child that is made with CLONE_* `flags` tells of its end: clone3 refuses a signal
    with CLONE_PARENT, which takes that of the creator."""
    return 0 if flags & CLONE_PARENT else signal.SIGCHLD


def fork_with(args: CloneArgs) -> int:
    """Like os.fork(), but by clone3 with `args`, which must not share memory or ask for a stack.

    Returns the pid, 0 in the child. The interpreter prepares for it and recovers as in os.fork();
    the C library does not, so that no other thread may run in the process at this moment.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = -1
    try:
        pid = clone3(ctypes.addressof(args), ctypes.sizeof(args))
    finally:
        if pid == 0:
            ctypes.pythonapi.PyOS_AfterFork_Child()
        else:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid


def fork_into(namespaces: NS) -> tuple[int, int]:
    """Fork a child that starts in new `namespaces`; returns (pid, pidfd), in the child (0, -1)."""
    pidfd = ctypes.c_int(-1)
    args = CloneArgs(
        flags=namespaces | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=signal.SIGCHLD,
    )
    return fork_with(args), pidfd.value


def idle() -> NoReturn:
    """Wait for a deadly signal."""
    while True:
        signal.pause()


def pid_in_proc(pidfd: int) -> int:
    """Pid of a task as the mounted /proc numbers it, which may belong to another pid namespace
    than the caller's; -1 once it was reaped."""
    for line in Path("/proc/self/fdinfo", str(pidfd)).read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise ValueError(f"fd {pidfd} is not a pidfd")


def status_field(pid: int | str, name: str) -> str:
    """A field of /proc/PID/status (proc_pid_status(5)); KeyError if there is none."""
    with open(f"/proc/{pid}/status") as file:
        text = file.read()
    _, found, rest = text.partition(f"\n{name}:")
    if not found:
        raise KeyError(name)
    return rest.partition("\n")[0].strip()


def pids_by_level(pid: int | str = "self") -> list[int]:
    """Pids of a process in the pid namespace of the mounted /proc and in each one below it down to
    its own; `pid` is that in /proc."""
    return [int(number) for number in status_field(pid, "NSpid").split()]


def parent_of(pid: int) -> int:
    """Pid of a process' parent, both as in /proc; 0 if the parent is not in that namespace."""
    return int(status_field(pid, "PPid"))


def end_child(pidfd: int) -> None:
    """Kill the child behind `pidfd`, reap it, and close the pidfd."""
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
