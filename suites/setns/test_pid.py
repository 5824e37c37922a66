# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) to a pid namespace: it takes the children there, and only downwards."""

import os
from errno import EINVAL

import pytest
from nslib import (
    NS,
    Idle,
    Task,
    errno_of_joining,
    errno_of_joining_file,
    hold,
    ns_name,
    ns_names,
    open_ns,
    owned,
    setns,
    unshare,
)

pytestmark = pytest.mark.needs("pid_ns")


@pytest.mark.behaviour("SNS-30")
def test_only_the_children_are_in_the_joined_namespace(joiner: Task) -> None:
    before, pid = ns_names(joiner.pid), joiner.call(os.getpid)
    with Idle(NS.PID) as target:
        assert errno_of_joining(joiner, target, NS.PID) == 0
        of_target = ns_name(NS.PID, target.pid)
        assert ns_names(joiner.pid) == before | {"pid_for_children": of_target}
        assert joiner.call(os.getpid) == pid
        with joiner.spawn() as child:
            assert ns_name(NS.PID, child.pid) == of_target
            assert (child.call(os.getpid), child.call(os.getppid)) == (2, 0)


@pytest.mark.behaviour("SNS-31")
def test_active_namespace_of_the_target_is_joined(joiner: Task) -> None:
    with Task(NS.PID) as target:
        target.call(unshare, NS.PID)
        assert errno_of_joining(joiner, target, NS.PID) == 0
        assert ns_name("pid_for_children", joiner.pid) == ns_name(NS.PID, target.pid)


@pytest.mark.behaviour("SNS-31")
def test_target_that_only_unshared_is_still_in_the_old_namespace(joiner: Task) -> None:
    with Task() as target:
        target.call(unshare, NS.PID)
        assert errno_of_joining(joiner, target, NS.PID) == 0
        assert ns_name("pid_for_children", joiner.pid) == ns_name(NS.PID)


@pytest.mark.behaviour("SNS-32")
def test_ancestor_and_sibling_are_refused() -> None:
    with Task(NS.PID) as joiner, joiner.spawn(NS.PID) as inner, Idle(NS.PID) as sibling:
        before = ns_names(inner.pid)
        with owned(open_ns(NS.PID)) as top, owned(open_ns(NS.PID, joiner.pid)) as parent:
            refused = [errno_of_joining_file(inner, fd, NS.PID) for fd in (top, parent)]
        refused += [errno_of_joining(inner, task, NS.PID) for task in (joiner, sibling)]
        with owned(os.pidfd_open(os.getpid())) as top:
            refused += [errno_of_joining_file(inner, top, NS.PID)]
        assert refused == [EINVAL] * 5
        assert ns_names(inner.pid) == before


@pytest.mark.behaviour("SNS-32")
def test_own_and_descendants_are_joined() -> None:
    with Task(NS.PID) as joiner, joiner.spawn(NS.PID) as child, child.spawn(NS.PID) as grandchild:
        before = ns_names(joiner.pid)
        for task in (child, grandchild, joiner):
            assert errno_of_joining(joiner, task, NS.PID) == 0
            with owned(open_ns(NS.PID, task.pid)) as fd:
                assert errno_of_joining_file(joiner, fd) == 0
            assert ns_name("pid_for_children", joiner.pid) == ns_name(NS.PID, task.pid)
        assert ns_names(joiner.pid) == before


@pytest.mark.behaviour("SNS-32")
def test_joining_the_own_namespace_cancels_an_unshare(joiner: Task) -> None:
    before = ns_names(joiner.pid)
    joiner.call(unshare, NS.PID)
    with owned(open_ns(NS.PID)) as fd:
        assert errno_of_joining_file(joiner, fd) == 0
    assert ns_names(joiner.pid) == before
    with joiner.spawn() as child:
        assert ns_names(child.pid) == before


@pytest.mark.needs("nsid", "pidfd_ioctls")
@pytest.mark.behaviour("SNS-32")
def test_namespace_without_init_is_joined(joiner: Task) -> None:
    held = joiner.call(hold, NS.PID)
    joiner.call(setns, held.fd, NS.PID)
    with joiner.spawn() as child:
        assert ns_name(NS.PID, child.pid) == ns_name("pid_for_children", joiner.pid)
        assert ns_name(NS.PID, child.pid) != ns_name(NS.PID)
        assert child.call(os.getpid) == 1
