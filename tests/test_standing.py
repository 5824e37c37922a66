# SPDX-License-Identifier: GPL-2.0-only
"""What a test can do to its process, which the next test must not get then."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Callable

import pytest

from harness.guest import standing

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
# include/uapi/linux/prctl.h, linux/sched.h
PR_SET_PDEATHSIG, PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER = 1, 28, 36
CLONE_NEWUTS = 0x04000000

libc = ctypes.CDLL(None)
kept: list[object] = []


def leave_a_child() -> None:
    if os.fork() == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        time.sleep(1000)


def leave_a_zombie() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def replace_a_descriptor() -> None:
    os.dup2(os.open("/dev/zero", os.O_RDONLY), 0)


def lower_a_limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))


CHANGES: dict[str, Callable[[], object]] = {
    "child": leave_a_child,
    "zombie": leave_a_zombie,
    "open file": lambda: kept.append(os.open("/dev/null", os.O_RDONLY)),
    "other file": replace_a_descriptor,
    "socket": lambda: kept.append(socket.socket()),
    "directory": lambda: os.chdir("/proc"),
    "umask": lambda: os.umask(0o123),
    "limit": lower_a_limit,
    "session": os.setsid,
    "ignored signal": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "handled signal": lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
    "blocked signal": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]),
    "environment": lambda: os.environ.update(A="b"),
    "timer": lambda: signal.setitimer(signal.ITIMER_REAL, 1000),
    "processor timer": lambda: signal.setitimer(signal.ITIMER_PROF, 1000),
    "processors": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    "niceness": lambda: os.nice(1),
    "death signal": lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    "reaper": lambda: libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0),
}
CHANGES_OF_ROOT: dict[str, Callable[[], object]] = {
    "uid": lambda: os.setresuid(1000, 1000, 0),
    "gid": lambda: os.setresgid(1000, 1000, 0),
    "groups": lambda: os.setgroups([1000]),
    "securebits": lambda: libc.prctl(PR_SET_SECUREBITS, 1, 0, 0, 0),
    "root": lambda: os.chroot("/proc/self/root/tmp"),
    "namespace": lambda: libc.unshare(CLONE_NEWUTS),
}
CARRY_ON: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "a file that is closed": lambda: os.close(os.open("/dev/null", os.O_RDONLY)),
    "a child that is reaped": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "memory": lambda: kept.append(bytearray(10_000_000)),
}


def is_noticed(change: Callable[[], object]) -> bool:
    """Whether a process differs after a change, which is made in a process of its own."""
    if (pid := os.fork()) == 0:
        status = 2
        try:
            before = standing.take()
            change()
            status = 1
            # To whom nothing is shown any more, that has been noticed too.
            with contextlib.suppress(OSError):
                status = int(standing.take() != before)
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return bool(code)


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_noticed(change: str) -> None:
    if change == "processors" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one CPU")
    assert is_noticed(CHANGES[change])


@needs_root
@pytest.mark.parametrize("change", CHANGES_OF_ROOT)
def test_change_by_root_is_noticed(change: str) -> None:
    assert is_noticed(CHANGES_OF_ROOT[change])


@pytest.mark.parametrize("harmless", CARRY_ON)
def test_what_leaves_nothing_behind_is_not_noticed(harmless: str) -> None:
    assert not is_noticed(CARRY_ON[harmless])
