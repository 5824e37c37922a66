# SPDX-License-Identifier: GPL-2.0-only
"""A pid namespace that has no init yet: made by unshare(2), before the first fork."""

import os
import signal
from collections.abc import Callable
from errno import EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM, errorcode

import pytest
from nslib import (
    CLONE_PIDFD,
    NS,
    UNMAPPED_ADDRESS,
    Cap,
    CloneArgs,
    PidfdGet,
    Sleeper,
    Task,
    children_in,
    children_in_new_pid_ns,
    clone_sleeper,
    errno_of,
    ns_name,
    open_ns,
    open_of_pidfd,
    owned,
    set_effective_caps,
    sleeper_errno,
    unshare,
)

pytestmark = pytest.mark.needs("pid_ns")


def has_reworked_allocation() -> bool:
    """Whether pids are allocated as since Linux 7.1, where a missing capability is found before a
    missing init (commit 39c8806e2d88).

    Of the same release are the link that opens without init (commit a3bdc23ba8ea), and that the
    first fork may fail late.
    """
    with Task() as task:
        task.call(unshare, NS.PID)
        task.call(set_effective_caps, ~(Cap.SYS_ADMIN | Cap.CHECKPOINT_RESTORE))
        return task.call(sleeper_errno, set_tid=(2,)) == EPERM


def open_children_ns(task: Task) -> int:
    """An fd of the pid namespace that the task's children will be in."""
    return open_of_pidfd(task.pidfd, PidfdGet.PID_FOR_CHILDREN)


@pytest.mark.behaviour("PNS-11")
def test_link_can_be_read_before_there_is_an_init(observe: Callable[[str, object], None]) -> None:
    with children_in_new_pid_ns():
        opens = errno_of(ns_name, "pid_for_children") == 0
        observe("link_opens_without_init", opens)
        if opens:
            assert ns_name("pid_for_children") != ns_name(NS.PID)
            with owned(open_ns("pid_for_children")) as fd, Sleeper() as first:
                inside = os.stat(f"/proc/{first.pid}/ns/pid")
                assert os.fstat(fd).st_ino == inside.st_ino
                assert ns_name("pid_for_children") == ns_name(NS.PID, first.pid)
        else:
            assert errno_of(ns_name, "pid_for_children") == ENOENT
            assert errno_of(open_ns, "pid_for_children") == ENOENT
    assert opens or not has_reworked_allocation()


@pytest.mark.behaviour("PNS-12")
@pytest.mark.needs("pidfd_ioctls")
def test_outsider_can_fork_the_init() -> None:
    with Task() as task:
        task.call(unshare, NS.PID)
        try:
            fd = open_ns("pid_for_children", task.pid)
        except FileNotFoundError:  # before 7.1; the pidfd knows it all the same
            fd = open_children_ns(task)
        with owned(fd), children_in(fd), Sleeper() as init, task.spawn() as second:
            assert init.pids[1:] == [1]
            assert second.call(os.getpid) == 2
            assert ns_name(NS.PID, second.pid) == ns_name(NS.PID, init.pid)


@pytest.mark.behaviour("PNS-13")
def test_first_pid_can_only_be_1() -> None:
    with children_in_new_pid_ns():
        for pid in (2, 300, 0):
            assert sleeper_errno(set_tid=(pid,)) == EINVAL
        with Sleeper() as first, Sleeper() as second:
            assert (first.pids[1:], second.pids[1:]) == ([1], [2])


@pytest.mark.behaviour("PNS-13")
def test_first_pid_can_be_asked_for() -> None:
    with children_in_new_pid_ns(), Sleeper(set_tid=(1,)) as first, Sleeper() as second:
        assert (first.pids[1:], second.pids[1:]) == ([1], [2])


@pytest.mark.behaviour("PNS-14")
@pytest.mark.needs("pidfd_ioctls", "user_ns")
def test_pids_of_the_init_on_all_levels_can_be_chosen() -> None:
    with Sleeper() as past:
        free = past.pid
    with Task(NS.USER) as task:
        task.call(unshare, NS.PID)
        with (
            owned(open_children_ns(task)) as fd,
            children_in(fd),
            Sleeper(set_tid=(1, free)) as init,
        ):
            assert init.pids == [free, 1]


@pytest.mark.behaviour("PNS-14")
@pytest.mark.needs("user_ns")
def test_pids_of_the_init_need_capabilities_on_all_levels() -> None:
    with Sleeper() as past:
        free = past.pid
    with Task(NS.USER) as task:
        task.call(unshare, NS.PID)
        assert task.call(sleeper_errno, set_tid=(1, free)) == EPERM


@pytest.mark.behaviour("PNS-15")
def test_refused_first_fork_leaves_pid_1_to_the_next() -> None:
    with children_in_new_pid_ns():
        for _ in range(3):
            # Pid 1 is there for it, then the one outside is not.
            assert sleeper_errno(set_tid=(1, os.getpid())) == EEXIST
        with Sleeper() as first, Sleeper() as second:
            assert (first.pids[1:], second.pids[1:]) == ([1], [2])


@pytest.mark.behaviour("PNS-15")
def test_first_fork_may_fail_late(observe: Callable[[str, object], None]) -> None:
    bad = CloneArgs(flags=CLONE_PIDFD, pidfd=UNMAPPED_ADDRESS, exit_signal=signal.SIGCHLD)
    with children_in_new_pid_ns():
        assert errno_of(clone_sleeper, bad) == EFAULT
        error = errno_of(clone_sleeper, bad)
        observe("errno_after_late_failure", errorcode[error])
        if error == ENOMEM:  # before 7.1 the failure is the end of the namespace
            assert [sleeper_errno(), sleeper_errno()] == [ENOMEM, ENOMEM]
        else:
            assert error == EFAULT
            with Sleeper() as first, Sleeper() as second:
                assert (first.pids[1:], second.pids[1:]) == ([1], [2])
    assert error == EFAULT or not has_reworked_allocation()
