# SPDX-License-Identifier: GPL-2.0-only
"""A pid namespace whose init has ended: it can be joined, but nothing is born in it."""

import os
from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENOMEM, ESTALE

import pytest
from nslib import (
    NS,
    Sleeper,
    Task,
    children_in,
    children_in_new_pid_ns,
    errno_of,
    id_of,
    list_all,
    ns_name,
    open_id,
    open_ns,
    owned,
    set_sysctl,
    sleeper_errno,
    unshare,
    wait_until,
)

pytestmark = pytest.mark.needs("pid_ns")


@pytest.fixture
def dead() -> Iterator[int]:
    """An fd of a pid namespace whose init was killed and reaped."""
    with Sleeper(NS.PID) as init:
        fd = open_ns(NS.PID, init.pid)
    with owned(fd):
        yield fd


@pytest.mark.behaviour("PNS-18")
def test_fork_after_the_end_of_init_fails() -> None:
    with children_in_new_pid_ns():
        with Sleeper() as init, Sleeper() as second:
            assert init.pids[1:] == [1]
            second.reap()
        for _ in range(2):
            assert sleeper_errno() == ENOMEM
    assert sleeper_errno() == 0


@pytest.mark.behaviour("PNS-18")
def test_fork_beside_a_zombie_init_fails() -> None:
    with children_in_new_pid_ns(), Sleeper() as init:
        init.zombie()
        assert sleeper_errno() == ENOMEM


@pytest.mark.behaviour("PNS-19")
def test_dead_namespace_can_be_joined_and_left(dead: int) -> None:
    with children_in(dead):
        assert os.stat("/proc/thread-self/ns/pid_for_children").st_ino == os.fstat(dead).st_ino
        assert sleeper_errno() == ENOMEM
        assert errno_of(unshare, NS.PID) == EINVAL  # pid_for_children is not the active one
    assert ns_name("pid_for_children") == ns_name(NS.PID)
    with Sleeper() as child:
        assert child.pids == [child.pid]


@pytest.mark.behaviour("PNS-20")
def test_no_chosen_pid_either(dead: int) -> None:
    with children_in(dead):
        for pid in (1, 2, 300):
            assert sleeper_errno(set_tid=(pid,)) in (ENOMEM, EEXIST)
            assert sleeper_errno(set_tid=(pid, os.getpid())) in (ENOMEM, EEXIST)
        assert sleeper_errno() == ENOMEM


_FORKS = 200


@pytest.mark.behaviour("PNS-21")
@pytest.mark.needs("user_ns")
def test_failing_forks_leak_no_namespace() -> None:
    with Task(NS.USER | NS.PID) as task:
        task.call(set_sysctl, "user/max_pid_namespaces", 2)  # its own, and another
        assert task.call(_fail_to_fork, _FORKS) == {ENOMEM}
        wait_until(lambda: task.call(sleeper_errno, NS.PID) == 0, "removal of the pid namespace")


def _fail_to_fork(count: int) -> set[int]:
    """The errnos of forks into a namespace whose init has ended."""
    with children_in_new_pid_ns():
        with Sleeper():
            pass
        return {sleeper_errno() for _ in range(count)}


@pytest.mark.behaviour("PNS-21")
@pytest.mark.needs("active_refs", "id_handles")
def test_failing_forks_keep_nothing_visible() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        ns = id_of(fd)
        init.reap()
        with children_in(fd):
            assert {sleeper_errno() for _ in range(10)} == {ENOMEM}
        assert ns in list_all(NS.PID)
    assert ns not in list_all(NS.PID)
    assert errno_of(open_id, ns) == ESTALE
