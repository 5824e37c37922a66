# SPDX-License-Identifier: GPL-2.0-only
"""How a pid namespace comes to be: by clone, by unshare, by joining one; and when it may not."""

import ctypes
import os
from errno import EINVAL

import pytest
from nslib import (
    NS,
    Sleeper,
    Task,
    children_in,
    children_in_new_pid_ns,
    errno_of,
    ns_name,
    open_ns,
    owned,
    pids_by_level,
    setns,
    sleeper_errno,
    unshare,
)

pytestmark = pytest.mark.needs("pid_ns")

_libc = ctypes.CDLL(None)


@pytest.mark.behaviour("PNS-01")
def test_cloned_child_is_pid_1_inside() -> None:
    with Task(NS.PID) as task:
        assert task.call(os.getpid) == 1
        assert task.call(os.getppid) == 0
        assert task.pid > 1
        assert pids_by_level(task.pid) == [task.pid, 1]
        assert ns_name(NS.PID, task.pid) != ns_name(NS.PID)


@pytest.mark.behaviour("PNS-02")
def test_unshare_concerns_the_children_only() -> None:
    before = os.getpid(), ns_name(NS.PID), pids_by_level()
    with children_in_new_pid_ns():
        assert (os.getpid(), ns_name(NS.PID), pids_by_level()) == before
        with Sleeper() as first, Task() as second:
            assert first.pids == [first.pid, 1]
            assert pids_by_level(second.pid) == [second.pid, 2]
            assert (second.call(os.getpid), second.call(os.getppid)) == (2, 0)
            inside = ns_name("pid_for_children")
            assert ns_name(NS.PID, first.pid) == ns_name(NS.PID, second.pid) == inside
            assert inside != ns_name(NS.PID)


@pytest.mark.behaviour("PNS-03")
def test_none_can_be_made_while_children_go_to_another() -> None:
    with children_in_new_pid_ns():
        assert errno_of(unshare, NS.PID) == EINVAL
        assert errno_of(unshare, NS.PID | NS.UTS) == EINVAL
        assert sleeper_errno(NS.PID) == EINVAL
        with Sleeper() as first:
            assert first.pids[1:] == [1]
            assert errno_of(unshare, NS.PID) == EINVAL
            assert sleeper_errno(NS.PID) == EINVAL


@pytest.mark.behaviour("PNS-03")
def test_failed_unshare_changes_nothing_else() -> None:
    with children_in_new_pid_ns():
        before = ns_name(NS.UTS), ns_name(NS.IPC)
        assert errno_of(unshare, NS.PID | NS.UTS | NS.IPC) == EINVAL
        assert (ns_name(NS.UTS), ns_name(NS.IPC)) == before


@pytest.mark.behaviour("PNS-04")
def test_none_can_be_made_after_joining_a_child() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        with children_in(fd):
            assert errno_of(unshare, NS.PID) == EINVAL
            assert sleeper_errno(NS.PID) == EINVAL
            with owned(open_ns(NS.PID)) as own:
                setns(own, NS.PID)
            assert sleeper_errno(NS.PID) == 0
            unshare(NS.PID)
        assert ns_name("pid_for_children") == ns_name(NS.PID)


@pytest.mark.behaviour("PNS-05")
@pytest.mark.parametrize("how", [unshare, setns])
def test_no_thread_can_be_made_while_children_go_to_another(how: object) -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        assert thread_errno() == 0
        with children_in(fd) if how is setns else children_in_new_pid_ns():
            assert thread_errno() == EINVAL
        assert thread_errno() == 0


def thread_errno() -> int:
    """What pthread_create(3) of a thread that ends at once returns: 0 or an errno."""
    thread = ctypes.c_ulong()
    error: int = _libc.pthread_create(ctypes.byref(thread), None, _libc.getppid, None)
    if error == 0:
        _libc.pthread_join(thread, None)
    return error
