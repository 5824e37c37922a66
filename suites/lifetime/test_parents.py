# SPDX-License-Identifier: GPL-2.0-only
"""Parents of pid namespaces, which their children do not keep visible: only owners count."""

import os
from errno import EMFILE

import pytest
from nslib import (
    NS,
    Task,
    errno_of,
    hold,
    id_of,
    no_more_fds,
    ns_id,
    open_ns,
    open_parent,
    owned,
    visible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")


def new_pid_ns() -> int:
    """An fd of a new pid namespace, the child of the caller's."""
    return hold(NS.PID).fd


@pytest.mark.behaviour("ACT-32", "ACT-33")
def test_child_does_not_keep_its_parent_visible_but_leads_to_it() -> None:
    with Task(NS.PID) as init:
        parent = ns_id(NS.PID, init.pid)
        fd = init.fetch(new_pid_ns)
        child = id_of(fd)
        assert visible(parent, child) == {parent, child}
        init.reap()
    assert visible(parent, child) == {child}
    for _ in range(3):
        with owned(open_parent(fd)) as of_parent:
            assert id_of(of_parent) == parent
            assert visible(parent, child) == {parent, child}
        assert visible(parent, child) == {child}
    os.close(fd)
    assert not visible(parent, child)


@pytest.mark.behaviour("ACT-33")
def test_resurrected_parent_keeps_its_own_owner_visible() -> None:
    with Task(NS.USER | NS.PID) as init:
        inner = init.spawn(NS.USER | NS.PID)
        parents = {ns_id(NS.USER, init.pid), ns_id(NS.PID, init.pid)}
        child, user = ns_id(NS.PID, inner.pid), ns_id(NS.USER, inner.pid)
        fd = open_ns(NS.PID, inner.pid)
        init.reap()
    of_parent = open_parent(fd)
    assert visible(child, user, *parents) == {child, user, *parents}
    os.close(fd)
    assert visible(child, user, *parents) == parents
    os.close(of_parent)
    assert not visible(child, user, *parents)


@pytest.mark.behaviour("ACT-33")
def test_failure_for_want_of_a_fd_leaves_the_parent_invisible() -> None:
    with Task(NS.PID) as init:
        parent = ns_id(NS.PID, init.pid)
        fd = init.fetch(new_pid_ns)
        init.reap()
    with owned(fd):
        with no_more_fds():
            assert errno_of(open_parent, fd) == EMFILE
        assert not visible(parent)
