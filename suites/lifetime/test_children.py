# SPDX-License-Identifier: GPL-2.0-only
"""Namespaces for children, which their creator uses without being in them, and children that no
one waits for."""

import ctypes
import os
import signal
from collections.abc import Iterator

import pytest
from nslib import (
    CLONE_AUTOREAP,
    CLONE_PIDFD,
    NS,
    PR_SET_PDEATHSIG,
    CloneArgs,
    PidfdGet,
    Task,
    fork_with,
    id_behind,
    idle,
    ids_in,
    inside_new,
    ns_id,
    open_of_pidfd,
    owned,
    pid_in_proc,
    prctl,
    start_idle,
    unshare,
    visible,
    wait_until_invisible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")

OWN = NS.USER | NS.PID | NS.NET


def _for_children(task: Task, kind: NS) -> int:
    """Id of the namespace that the next child of a task will be in."""
    return id_behind(open_of_pidfd(task.pidfd, PidfdGet[kind.child_link.upper()]))


@pytest.fixture
def ignored_children() -> Iterator[None]:
    """Children that end are reaped by the kernel."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


def _end_unwaited(pidfd: int) -> set[int]:
    """Kill a child in new namespaces of the types OWN, without a wait; gives their ids."""
    with owned(pidfd):
        used = set(ids_in(pid_in_proc(pidfd), OWN).values())
        assert visible(*used) == used
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return used


@pytest.mark.behaviour("ACT-52")
@pytest.mark.usefixtures("ignored_children")
def test_namespaces_of_an_ignored_child_end_without_a_wait() -> None:
    used = _end_unwaited(start_idle(OWN))
    wait_until_invisible(*used)


@pytest.mark.needs("clone_autoreap")
@pytest.mark.behaviour("ACT-52")
def test_namespaces_of_an_autoreaped_child_end_without_a_wait() -> None:
    used = _end_unwaited(_start_autoreaped(OWN))
    wait_until_invisible(*used)


def _start_autoreaped(kinds: NS) -> int:
    pidfd = ctypes.c_int(-1)
    flags = kinds | CLONE_PIDFD | CLONE_AUTOREAP
    if fork_with(CloneArgs(flags=flags, pidfd=ctypes.addressof(pidfd))) == 0:
        idle()
    return pidfd.value


@pytest.mark.behaviour("ACT-53")
def test_pid_namespace_for_children_is_visible_before_and_after_its_init() -> None:
    with Task() as creator:
        creator.call(unshare, NS.PID)
        pid = _for_children(creator, NS.PID)
        assert visible(pid)
        with creator.spawn() as init:
            assert ns_id(NS.PID, init.pid) == pid
            assert visible(pid)
        assert visible(pid)
        creator.zombie()
        assert not visible(pid)


@pytest.mark.behaviour("ACT-54")
def test_pid_namespace_ends_with_its_init_when_its_creator_has_left() -> None:
    with inside_new(NS.PID) as pid:
        init = Task()
    with init:
        assert visible(pid)
        init.zombie()
        assert visible(pid)
        init.reap()
        assert not visible(pid)


@pytest.mark.behaviour("ACT-54")
def test_pid_namespace_ends_with_its_creator_when_its_init_is_gone() -> None:
    with inside_new(NS.PID) as pid:
        with Task():
            pass
        assert visible(pid)
    assert not visible(pid)


@pytest.mark.behaviour("ACT-54")
def test_pid_namespace_ends_with_its_init_when_its_creator_is_dead() -> None:
    with Task() as creator:
        creator.call(unshare, NS.PID)
        init = creator.spawn()
        init.call(prctl, PR_SET_PDEATHSIG, 0)
        pid = ns_id(NS.PID, init.pid)
        creator.zombie()
        assert visible(pid)
        init.kill()
        wait_until_invisible(pid)


@pytest.mark.behaviour("ACT-54")
def test_pid_namespace_that_never_had_an_init_ends_with_its_creator() -> None:
    with Task() as creator:
        creator.call(unshare, NS.PID)
        pid = _for_children(creator, NS.PID)
        creator.zombie()
        assert not visible(pid)


@pytest.mark.behaviour("ACT-55")
def test_second_time_namespace_ends_the_first_one() -> None:
    with inside_new(NS.TIME) as first:
        assert visible(first)
        unshare(NS.TIME)
        second = ns_id("time_for_children")
        assert visible(first, second) == {second}
    assert not visible(first, second)


@pytest.mark.behaviour("ACT-55")
def test_time_namespace_of_a_task_lives_beside_that_for_its_children() -> None:
    with Task(NS.TIME) as task:
        own = ns_id(NS.TIME, task.pid)
        task.call(unshare, NS.TIME)
        for_children = ns_id("time_for_children", task.pid)
        assert visible(own, for_children) == {own, for_children}
        task.zombie()
        assert not visible(own, for_children)


@pytest.mark.behaviour("ACT-55")
def test_time_namespace_lives_with_the_child_that_entered_it() -> None:
    with Task() as creator:
        creator.call(unshare, NS.TIME)
        with creator.spawn() as child:
            entered = ns_id(NS.TIME, child.pid)
            creator.call(unshare, NS.TIME)
            child.call(unshare, NS.TIME)
            assert visible(entered)
            child.zombie()
            assert not visible(entered)


@pytest.mark.behaviour("ACT-57")
def test_process_group_keeps_the_pid_namespace_of_its_leader() -> None:
    with Task(NS.PID) as leader, Task() as member:
        pid = ns_id(NS.PID, leader.pid)
        os.setpgid(leader.pid, leader.pid)
        os.setpgid(member.pid, leader.pid)
        leader.reap()
        assert visible(pid)
        os.setpgid(member.pid, member.pid)
        assert not visible(pid)


@pytest.mark.behaviour("ACT-57")
def test_process_group_keeps_the_pid_namespace_of_its_leader_until_its_last_member_ends() -> None:
    with Task(NS.PID) as leader, Task() as member:
        pid = ns_id(NS.PID, leader.pid)
        os.setpgid(leader.pid, leader.pid)
        os.setpgid(member.pid, leader.pid)
        leader.reap()
        member.zombie()
        assert visible(pid)
        member.reap()
        assert not visible(pid)
