# SPDX-License-Identifier: GPL-2.0-only
"""clone3(2) with set_tid: a child whose pids are chosen, from the innermost level outwards."""

import ctypes
import signal
from collections.abc import Iterator
from errno import EEXIST, EFAULT, EINVAL, EPERM

import pytest
from nslib import (
    NS,
    UNMAPPED_ADDRESS,
    Cap,
    CloneArgs,
    Sleeper,
    Task,
    clone_sleeper,
    errno_of,
    get_sysctl,
    pids_by_level,
    set_effective_caps,
    sleeper_errno,
    sleeper_in,
)

pytestmark = pytest.mark.needs("pid_ns")

MAX_LEVEL = 32  # include/linux/pid_namespace.h, MAX_PID_NS_LEVEL


@pytest.fixture
def init() -> Iterator[Task]:
    """The init of a new pid namespace."""
    with Task(NS.PID) as task:
        yield task


@pytest.fixture
def free() -> int:
    """A pid that is not in use outside: that of a process which has just been reaped."""
    with Sleeper() as past:
        return past.pid


def pids_of_child(task: Task, *pids: int, flags: NS = NS.NONE) -> list[int]:
    """The pids below that of /proc of a new child of the task that was to have `pids`."""
    return pids_by_level(task.call(sleeper_in, flags, pids))


@pytest.mark.behaviour("PNS-47")
def test_pids_are_as_chosen(init: Task, free: int) -> None:
    assert pids_of_child(init, 77)[1:] == [77]
    assert pids_of_child(init, 5, free) == [free, 5]
    # The others are counted as before.
    assert pids_of_child(init)[1:] == [2]
    assert pids_of_child(init, 1, 88, flags=NS.PID)[1:] == [88, 1]


@pytest.mark.behaviour("PNS-47")
def test_pid_in_use_is_refused(init: Task, free: int) -> None:
    assert pids_of_child(init)[1:] == [2]
    for pids in ((1,), (2,), (5, init.pid), (2, free)):
        assert init.call(sleeper_errno, set_tid=pids) == EEXIST
    # What was taken on the way is given back.
    assert pids_of_child(init, 5, free) == [free, 5]


@pytest.mark.behaviour("PNS-47")
def test_pid_out_of_range_is_invalid(init: Task) -> None:
    limit = init.call(get_sysctl, "kernel/pid_max")
    for pid in (0, -1, limit, limit + 1, 2**31 - 1):
        assert init.call(sleeper_errno, set_tid=(pid,)) == EINVAL
        assert init.call(sleeper_errno, set_tid=(9, pid)) == EINVAL
    assert pids_of_child(init, limit - 1)[1:] == [limit - 1]


@pytest.mark.behaviour("PNS-47")
def test_pid_of_the_init_of_a_new_namespace_is_1(init: Task) -> None:
    assert init.call(sleeper_errno, NS.PID, (2,)) == EINVAL
    assert init.call(sleeper_errno, NS.PID, (2, 50)) == EINVAL
    assert pids_of_child(init, 1, flags=NS.PID)[1:] == [2, 1]


@pytest.mark.behaviour("PNS-47")
def test_more_pids_than_levels_are_invalid(init: Task) -> None:
    with init.spawn(NS.PID) as inner:
        for task, levels in ((init, 2), (inner, 3)):
            assert task.call(sleeper_errno, set_tid=[40] * (levels + 1)) == EINVAL
            assert task.call(sleeper_errno, set_tid=[40] * MAX_LEVEL) == EINVAL
            assert task.call(sleeper_errno, set_tid=[40] * (MAX_LEVEL + 1)) == EINVAL


@pytest.mark.behaviour("PNS-47")
def test_array_and_its_size_must_agree() -> None:
    pid = ctypes.c_int(40)
    for address, size, error in (
        (0, 1, EINVAL),
        (ctypes.addressof(pid), 0, EINVAL),
        (UNMAPPED_ADDRESS, MAX_LEVEL + 1, EINVAL),
        (UNMAPPED_ADDRESS, 1, EFAULT),
    ):
        args = CloneArgs(set_tid=address, set_tid_size=size, exit_signal=signal.SIGCHLD)
        assert errno_of(clone_sleeper, args) == error


@pytest.mark.behaviour("PNS-48")
def test_choice_needs_one_of_two_capabilities(init: Task) -> None:
    for pid, caps in (40, Cap.CHECKPOINT_RESTORE), (41, Cap.SYS_ADMIN):
        init.call(set_effective_caps, Cap.ALL & ~Cap.CHECKPOINT_RESTORE & ~Cap.SYS_ADMIN)
        assert init.call(sleeper_errno, set_tid=(pid,)) == EPERM
        assert init.call(sleeper_errno) == 0
        init.call(set_effective_caps, caps)
        assert pids_of_child(init, pid)[1:] == [pid]


@pytest.mark.behaviour("PNS-48")
@pytest.mark.needs("user_ns")
def test_choice_needs_capabilities_over_each_level_named(init: Task, free: int) -> None:
    with init.spawn(NS.USER) as member, init.spawn(NS.USER | NS.PID) as inner:
        assert member.call(sleeper_errno, set_tid=(40,)) == EPERM
        assert pids_of_child(inner, 40)[2:] == [40]
        assert inner.call(sleeper_errno, set_tid=(41, 41)) == EPERM
        assert inner.call(sleeper_errno, set_tid=(41, 41, free)) == EPERM
        assert pids_of_child(inner, 41)[2:] == [41]
