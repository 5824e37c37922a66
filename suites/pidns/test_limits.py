# SPDX-License-Identifier: GPL-2.0-only
"""Limits on the number of namespaces: /proc/sys/user/max_*_namespaces (namespaces(7))."""

import os
from errno import EACCES, EEXIST, EFAULT, EINVAL, ENOMEM, ENOSPC

import pytest
from nslib import (
    CLONE_PIDFD,
    NS,
    NS_GET_PID_FROM_PIDNS,
    NS_GET_PID_IN_PIDNS,
    UNMAPPED_ADDRESS,
    Cap,
    CloneArgs,
    Sleeper,
    Task,
    children_in,
    children_in_new_pid_ns,
    clone_sleeper,
    configured_types,
    errno_of,
    get_sysctl,
    ioctl,
    open_ns,
    open_owner,
    open_parent,
    owned,
    set_effective_caps,
    set_sysctl,
    sleeper_errno,
    sleeper_in,
    sleepers,
    unshare,
    wait_until,
)

pytestmark = pytest.mark.needs("pid_ns", "user_ns")

_INT_MAX = 2**31 - 1


def _limit(kind: NS) -> str:
    return f"user/max_{kind.link}_namespaces"


LIMIT = _limit(NS.PID)


@pytest.mark.behaviour("PNS-08")
def test_limit_counts_each_namespace_until_it_has_gone() -> None:
    kinds = configured_types()
    with Task(NS.USER) as task:
        seen = task.call(_use_up_each, kinds)
    assert seen == {kind: [ENOSPC, ENOSPC, ENOSPC] for kind in kinds}


def _use_up_each(kinds: list[NS]) -> dict[NS, list[int]]:
    return {kind: _use_up(kind) for kind in kinds}


def _use_up(kind: NS) -> list[int]:
    """Errnos of making one more than two, the limit: twice, and once more after one of the two
    was replaced."""
    set_sysctl(_limit(kind), 2)
    with Sleeper(kind):
        with Sleeper(kind):
            seen = [sleeper_errno(kind), sleeper_errno(kind)]
        # It counts until its memory is freed, which a worker of the kernel does for most types.
        with _sleeper_when_there_is_room(kind):
            seen.append(sleeper_errno(kind))
    return seen


def _sleeper_when_there_is_room(kind: NS) -> Sleeper:
    made: list[Sleeper] = []

    def attempt() -> bool:
        try:
            made.append(Sleeper(kind))
        except OSError as error:
            if error.errno != ENOSPC:
                raise
        return bool(made)

    wait_until(attempt, f"room for another {kind.link} namespace")
    return made[0]


@pytest.mark.behaviour("PNS-08")
def test_nothing_that_is_done_with_a_pid_namespace_lets_it_count_on() -> None:
    with Task(NS.USER | NS.PID) as task:
        for use in _USES:
            task.call(set_sysctl, LIMIT, 99)
            task.call(use)
            task.call(set_sysctl, LIMIT, 2)  # its own, and another
            wait_until(
                lambda: task.call(sleeper_errno, NS.PID) == 0,
                f"room for another pid namespace after {use.__name__}",
            )


def _join_and_leave() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd, children_in(fd):
        assert sleeper_errno() == 0
        assert sleeper_errno(set_tid=(1,)) == EEXIST
        assert errno_of(unshare, NS.PID) == EINVAL


def _never_fork() -> None:
    with children_in_new_pid_ns():
        assert sleeper_errno(set_tid=(2,)) == EINVAL


def _ask_about_it() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        os.close(open_parent(fd))
        os.close(open_owner(fd))
        errno_of(ioctl, fd, NS_GET_PID_FROM_PIDNS, 1)
        errno_of(ioctl, fd, NS_GET_PID_IN_PIDNS, 9999)


def _fail_to_clone() -> None:
    """Fail once the namespace is made: for a wrong pid, a bad address, another type's limit."""
    assert sleeper_errno(NS.PID, (2,)) == EINVAL
    args = CloneArgs(flags=NS.PID | CLONE_PIDFD, pidfd=UNMAPPED_ADDRESS)
    assert errno_of(clone_sleeper, args) == EFAULT
    limit = _limit(NS.CGROUP)
    before = get_sysctl(limit)
    set_sysctl(limit, 0)
    assert sleeper_errno(NS.PID | NS.CGROUP) == ENOSPC
    assert errno_of(unshare, NS.PID | NS.CGROUP) == ENOSPC
    set_sysctl(limit, before)


def _fork_when_dead() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        init.reap()
        with children_in(fd):
            assert sleeper_errno() == ENOMEM


def _end_with_members() -> None:
    with children_in_new_pid_ns(), Sleeper() as init, sleepers(2) as members:
        init.kill()
        for member in members:
            member.wait()


_USES = (
    _join_and_leave,
    _never_fork,
    _ask_about_it,
    _fail_to_clone,
    _fork_when_dead,
    _end_with_members,
)


@pytest.mark.behaviour("PNS-08")
def test_limit_of_zero_forbids_all() -> None:
    with Task(NS.USER) as task:
        task.call(set_sysctl, LIMIT, 0)
        assert task.call(sleeper_errno, NS.PID) == ENOSPC
        assert task.call(sleeper_errno) == 0
        task.call(set_sysctl, LIMIT, 1)
        assert task.call(sleeper_errno, NS.PID) == 0


@pytest.mark.behaviour("PNS-09")
def test_limit_of_an_ancestor_applies_too() -> None:
    with Task(NS.USER) as outer, outer.spawn(NS.USER | NS.PID) as inner:
        outer.call(set_sysctl, LIMIT, 2)  # the one of `inner`, and another
        inner.call(set_sysctl, LIMIT, 3)
        assert inner.call(get_sysctl, LIMIT) == 3
        inner.call(sleeper_in, NS.PID)
        assert outer.call(sleeper_errno, NS.PID) == ENOSPC
        # What fails above must not count below.
        assert [inner.call(sleeper_errno, NS.PID) for _ in range(3)] == [ENOSPC] * 3
        outer.call(set_sysctl, LIMIT, 9)
        inner.call(sleeper_in, NS.PID)
        assert inner.call(sleeper_errno, NS.PID) == ENOSPC
        assert outer.call(sleeper_errno, NS.PID) == 0


@pytest.mark.behaviour("PNS-10")
def test_limit_needs_sys_resource() -> None:
    with Task(NS.USER) as task:
        before = task.call(get_sysctl, LIMIT)
        task.call(set_effective_caps, Cap.ALL & ~Cap.SYS_RESOURCE)
        assert task.call(errno_of, set_sysctl, LIMIT, 7) == EACCES
        assert task.call(get_sysctl, LIMIT) == before
        task.call(set_effective_caps, Cap.SYS_RESOURCE)
        task.call(set_sysctl, LIMIT, 7)
        assert task.call(get_sysctl, LIMIT) == 7


@pytest.mark.behaviour("PNS-10")
def test_limit_is_a_non_negative_int() -> None:
    outside = get_sysctl(LIMIT)
    with Task(NS.USER) as task:
        for value in (_INT_MAX, 0, 7):
            task.call(set_sysctl, LIMIT, value)
            assert task.call(get_sysctl, LIMIT) == value
        for wrong in (-1, _INT_MAX + 1, 2**63, "many"):
            assert task.call(errno_of, set_sysctl, LIMIT, wrong) == EINVAL
            assert task.call(get_sysctl, LIMIT) == 7
    assert get_sysctl(LIMIT) == outside
