# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) to an ipc namespace: what SEM_UNDO keeps for the exit is undone now (semop(2))."""

import ctypes
import struct
from errno import EINVAL

import pytest
from nslib import NS, Idle, Task, errno_of_joining, errno_of_joining_file, open_ns, owned

pytestmark = pytest.mark.needs("ipc_ns", "pid_ns")

IPC_PRIVATE, IPC_CREAT = 0, 0o1000  # include/uapi/linux/ipc.h
GETVAL, SETVAL = 12, 16  # include/uapi/linux/sem.h, as all of this block
SEM_UNDO = 0x1000
START = 5

_SEMBUF = struct.Struct("Hhh")  # struct sembuf: number, operation, flags
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), "semaphore")
    return result


def new_semaphore() -> int:
    """A semaphore with the value START, in the caller's ipc namespace."""
    semaphore = _checked(_libc.semget(IPC_PRIVATE, 1, IPC_CREAT | 0o600))
    _checked(_libc.semctl(semaphore, 0, SETVAL, START))
    return semaphore


def raise_until_exit(semaphore: int) -> None:
    """Add 1, to be undone when the process ends."""
    operation = ctypes.create_string_buffer(_SEMBUF.pack(0, 1, SEM_UNDO), _SEMBUF.size)
    _checked(_libc.semop(semaphore, operation, 1))


def value_of(semaphore: int) -> int:
    """The value of a semaphore of the caller's ipc namespace."""
    return _checked(_libc.semctl(semaphore, 0, GETVAL))


@pytest.mark.behaviour("SNS-19")
@pytest.mark.parametrize("by_pidfd", [False, True], ids=["file", "pidfd"])
def test_joining_undoes_once(by_pidfd: bool) -> None:
    with Task(NS.IPC) as home, home.spawn() as joiner, Idle(NS.IPC | NS.UTS) as target:
        semaphore = home.call(new_semaphore)
        joiner.call(raise_until_exit, semaphore)
        assert errno_of_joining(joiner, target, NS.UTS) == 0
        assert home.call(value_of, semaphore) == START + 1
        with owned(open_ns(NS.IPC, target.pid)) as fd:
            if by_pidfd:
                assert errno_of_joining(joiner, target, NS.IPC | NS.UTS) == 0
            else:
                assert errno_of_joining_file(joiner, fd) == 0
        assert home.call(value_of, semaphore) == START
        joiner.reap()
        assert home.call(value_of, semaphore) == START


@pytest.mark.behaviour("SNS-19")
def test_failing_call_undoes_nothing() -> None:
    with Task(NS.IPC | NS.PID) as home, home.spawn() as joiner, Idle(NS.IPC) as target:
        semaphore = home.call(new_semaphore)
        joiner.call(raise_until_exit, semaphore)
        # The target's pid namespace is above the joiner's.
        assert errno_of_joining(joiner, target, NS.IPC | NS.PID) == EINVAL
        assert home.call(value_of, semaphore) == START + 1
        joiner.reap()
        assert home.call(value_of, semaphore) == START
