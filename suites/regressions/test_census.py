# SPDX-License-Identifier: GPL-2.0-only
"""Whatever failed, faulted or was killed: the list still equals what /proc shows."""

from errno import EFAULT, EINVAL, ENOSPC, ESRCH, ESTALE

import pytest
from nslib import (
    NEVER_AN_ID,
    NS,
    UNMAPPED_ADDRESS,
    Idle,
    ListRequest,
    Task,
    active_ids,
    configured_mask,
    errno_of,
    limit_namespaces,
    list_all,
    list_into,
    open_id,
    setns,
    undisturbed,
    unshare,
    visible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns", "uts_ns", "time_ns")


def fail_and_fault() -> None:
    """Calls that fail halfway, in a user namespace of the caller's own."""
    limit_namespaces(NS.TIME, 0)
    assert errno_of(unshare, configured_mask(NS.USER)) == ENOSPC
    with Idle(NS.UTS) as target:
        assert errno_of(setns, target.pidfd, NS.UTS | NS.USER) == EINVAL
        target.zombie()
        assert errno_of(setns, target.pidfd, NS.UTS) == ESRCH
    assert errno_of(list_into, ListRequest(), UNMAPPED_ADDRESS, 8) == EFAULT
    assert errno_of(list_into, ListRequest(owner=NEVER_AN_ID), UNMAPPED_ADDRESS, 8) == EINVAL
    assert errno_of(open_id, NEVER_AN_ID) == ESTALE


def compare() -> tuple[list[int], list[int]]:
    """The listed namespaces, and those that /proc implies."""
    return undisturbed(lambda: (list_all(), active_ids()))


@pytest.mark.behaviour("REG-16")
def test_list_is_right_after_failures() -> None:
    with Task(NS.USER) as task:
        for _ in range(3):
            task.call(fail_and_fault)
        listed, implied = compare()
        assert listed == implied
        assert visible(*implied) == set(implied)


@pytest.mark.behaviour("REG-16")
def test_list_is_right_after_tasks_were_killed() -> None:
    with Task(NS.USER | NS.PID | NS.MNT) as task, Idle(configured_mask(NS.TIME)) as other:
        task.call(unshare, NS.UTS | NS.NET | NS.TIME)
        child = task.spawn(NS.USER | NS.NET)
        child.call(unshare, NS.UTS)
        other.zombie()
        task.kill()
        task.wait(reap=False)
        listed, implied = compare()
        assert listed == implied
        task.reap()
        other.reap()
        listed, implied = compare()
        assert listed == implied
