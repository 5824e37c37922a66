# SPDX-License-Identifier: GPL-2.0-only
"""Mount namespaces, to which more leads than nsfs files and tasks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from nslib import (
    AT_FDCWD,
    NS,
    NS_MNT_GET_NEXT,
    NS_MNT_GET_PREV,
    OPEN_TREE_NAMESPACE,
    Held,
    Task,
    holding,
    id_of,
    mnt_ns_of_mount,
    mount_ids,
    ns_id,
    open_neighbour,
    open_tree,
    owned,
    pinned,
    setns,
    visible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")


class Pinned(NamedTuple):
    """An inactive mount namespace that an open mountinfo pins, the id of its owner, a user
    namespace that is inactive too, and one older and one younger than it."""

    older: Held
    user: int
    mnt: int
    younger: Held


@pytest.fixture
def inactive() -> Iterator[Pinned]:
    """A mount namespace that exists invisibly."""
    with holding(NS.MNT) as [older], Task(NS.USER | NS.MNT) as task, pinned(task, NS.MNT):
        user, mnt = ns_id(NS.USER, task.pid), ns_id(NS.MNT, task.pid)
        task.reap()
        with holding(NS.MNT) as [younger]:
            yield Pinned(older, user, mnt, younger)


@contextmanager
def walked_to(wanted: int, start: int, request: int) -> Iterator[int]:
    """An fd of the mount namespace `wanted`, by walking there from the namespace `start`."""
    fd, info = open_neighbour(start, request)
    with owned(fd):
        if info.mnt_ns_id == wanted:
            yield fd
        else:  # others make mount namespaces too
            with walked_to(wanted, fd, request) as found:
                yield found


@pytest.mark.behaviour("ACT-41")
@pytest.mark.parametrize("forwards", [True, False], ids=["NS_MNT_GET_NEXT", "NS_MNT_GET_PREV"])
def test_walk_leads_to_an_inactive_namespace_and_makes_it_visible(
    inactive: Pinned, forwards: bool
) -> None:
    start = inactive.older if forwards else inactive.younger
    request = NS_MNT_GET_NEXT if forwards else NS_MNT_GET_PREV
    assert not visible(inactive.mnt, inactive.user)
    with walked_to(inactive.mnt, start.fd, request) as fd:
        assert id_of(fd) == inactive.mnt
        assert visible(inactive.mnt, inactive.user) == {inactive.mnt, inactive.user}
    assert not visible(inactive.mnt, inactive.user)


@pytest.mark.behaviour("ACT-42")
def test_mounts_of_an_inactive_namespace_are_found_by_its_id(inactive: Pinned) -> None:
    mounts = mount_ids(inactive.mnt)
    assert len(mounts) == len(mount_ids(inactive.older.id)) > 0
    assert {mnt_ns_of_mount(mount, inactive.mnt) for mount in mounts} == {inactive.mnt}
    assert not visible(inactive.mnt, inactive.user)


@pytest.mark.needs("open_tree_namespace")
@pytest.mark.behaviour("ACT-62")
def test_namespace_from_open_tree_is_visible_as_long_as_its_fd() -> None:
    with owned(open_tree(AT_FDCWD, "/", OPEN_TREE_NAMESPACE | os.O_CLOEXEC)) as fd:
        mnt = id_of(fd)
        assert visible(mnt)
    assert not visible(mnt)


@pytest.mark.needs("open_tree_namespace")
@pytest.mark.behaviour("ACT-62")
def test_namespace_from_open_tree_is_visible_as_long_as_a_task_is_in_it() -> None:
    with Task() as task:
        fd = task.call(open_tree, AT_FDCWD, "/", OPEN_TREE_NAMESPACE)
        mnt = task.call(id_of, fd)
        task.call(setns, fd, NS.MNT)
        task.call(os.close, fd)
        assert visible(mnt)
        task.zombie()
        assert not visible(mnt)
