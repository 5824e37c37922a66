# SPDX-License-Identifier: GPL-2.0-only
"""Namespaces that nothing but tasks refers to: visible from the first task to the last."""

import os

import pytest
from nslib import (
    INITIAL_IDS,
    NS,
    PR_SET_PDEATHSIG,
    Task,
    configured_types,
    end_child,
    ids_in,
    inside_new,
    ns_id,
    open_ns,
    owned,
    pid_in_proc,
    prctl,
    setns,
    start_idle,
    unshare,
    visible,
    wait_until_invisible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")

OF_NSPROXY = NS.UTS | NS.IPC | NS.MNT | NS.CGROUP | NS.NET | NS.TIME


@pytest.mark.behaviour("ACT-01")
def test_initial_namespaces_are_always_visible() -> None:
    initial = set(INITIAL_IDS.values())
    assert visible(*initial) == initial
    with Task(NS.ALL):
        for kind in configured_types():
            with owned(open_ns(kind)), owned(open_ns(kind)):
                pass
            if kind != NS.USER:
                with inside_new(kind):
                    pass
        assert visible(*initial) == initial
    assert visible(*initial) == initial


@pytest.mark.behaviour("ACT-02", "ACT-03")
def test_exit_of_the_last_task_ends_each_type_alike() -> None:
    with Task(OF_NSPROXY) as task:
        used = set(ids_in(task.pid, OF_NSPROXY).values())
        assert visible(*used) == used
        task.reap()
        assert not visible(*used)


@pytest.mark.behaviour("ACT-02", "ACT-03")
def test_exit_of_the_last_task_ends_a_type_alone() -> None:
    for kind in OF_NSPROXY:
        pidfd = start_idle(kind)
        used = ns_id(kind, pid_in_proc(pidfd))
        assert visible(used), kind.name
        end_child(pidfd)
        assert not visible(used), kind.name


@pytest.mark.behaviour("ACT-10")
def test_two_tasks_keep_a_namespace_until_both_are_gone() -> None:
    with Task() as creator:
        creator.call(unshare, NS.NET)
        shared = ns_id(NS.NET, creator.pid)
        first, second = creator.spawn(), creator.spawn()
        creator.call(unshare, NS.NET)
        assert visible(shared)
        first.reap()
        assert visible(shared)
        second.reap()
        assert not visible(shared)


@pytest.mark.behaviour("ACT-10")
def test_task_that_joined_keeps_namespaces_after_their_creator() -> None:
    with Task(OF_NSPROXY) as creator, Task() as joiner:
        shared = set(ids_in(creator.pid, OF_NSPROXY).values())
        for kind in OF_NSPROXY:
            with owned(open_ns(kind, creator.pid)) as fd:
                joiner.call(join, joiner.give(fd))
        creator.reap()
        assert visible(*shared) == shared
        joiner.reap()
        assert not visible(*shared)


def join(fd: int) -> None:
    """Join the namespace of an fd, which is closed."""
    setns(fd)
    os.close(fd)


@pytest.mark.behaviour("ACT-10")
def test_user_namespace_ends_with_the_last_of_its_tasks() -> None:
    with Task(NS.USER) as creator, creator.spawn() as first, creator.spawn() as last:
        user = ns_id(NS.USER, creator.pid)
        first.reap()
        assert visible(user)
        last.call(prctl, PR_SET_PDEATHSIG, 0)
        creator.zombie()
        creator.wait()
        assert visible(user)
        last.kill()
        wait_until_invisible(user)  # another one reaps the orphan


@pytest.mark.behaviour("ACT-10")
def test_pid_namespace_ends_with_the_last_of_its_tasks() -> None:
    with Task(NS.PID) as init, init.spawn() as first, init.spawn() as second:
        pid = ns_id(NS.PID, init.pid)
        first.reap()
        assert visible(pid)
        second.zombie()
        assert visible(pid)
        init.reap()
        assert not visible(pid)


@pytest.mark.behaviour("ACT-11")
def test_children_keep_what_they_share_with_their_creator() -> None:
    with Task() as creator:
        creator.call(unshare, OF_NSPROXY)
        same, other = creator.spawn(), creator.spawn(NS.UTS)
        shared, own = ids_in(same.pid, OF_NSPROXY), ns_id(NS.UTS, other.pid)
        creator.call(unshare, OF_NSPROXY)
        assert visible(*shared.values(), own) == {*shared.values(), own}
        same.reap()
        of_other = {*shared.values(), own} - {shared[NS.UTS]}
        assert visible(*shared.values(), own) == of_other
        other.reap()
        assert not visible(*of_other)


@pytest.mark.behaviour("ACT-56")
def test_leaving_a_namespace_ends_it_at_once() -> None:
    for kind in configured_types(NS.USER):
        with inside_new(kind) as left:
            assert visible(left), kind.name
        assert not visible(left), kind.name


@pytest.mark.behaviour("ACT-56")
def test_unsharing_a_namespace_ends_the_one_before_at_once() -> None:
    kinds = NS.UTS | NS.IPC | NS.MNT | NS.CGROUP | NS.NET
    with Task(kinds) as task:
        left = set(ids_in(task.pid, kinds).values())
        task.call(unshare, kinds)
        current = set(ids_in(task.pid, kinds).values())
        assert visible(*left, *current) == current


@pytest.mark.behaviour("ACT-56")
def test_joining_the_own_namespace_changes_nothing() -> None:
    for kind in configured_types(NS.USER, NS.PID, NS.TIME):
        with inside_new(kind) as own:
            for _ in range(3):
                with owned(open_ns(kind)) as fd:
                    setns(fd, kind)
            assert visible(own), kind.name
        assert not visible(own), kind.name
