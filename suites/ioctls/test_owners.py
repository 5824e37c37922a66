# SPDX-License-Identifier: GPL-2.0-only
"""Owners: NS_GET_USERNS, NS_GET_PARENT of user namespaces, NS_GET_OWNER_UID.

No user namespace is shown to who is not in it or above it (ns_get_owner()).
"""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack
from errno import EFAULT, EINVAL, EPERM
from pathlib import Path

import pytest
from nslib import (
    KERNEL_ADDRESS,
    NS,
    NS_GET_OWNER_UID,
    SOMEBODY,
    UNMAPPED_ADDRESS,
    Cap,
    Task,
    configured_types,
    errno_of,
    guarded_room,
    inode_behind,
    inode_of,
    ioctl,
    ns_link,
    open_ns,
    open_owner,
    open_parent,
    opened,
    owned,
)

pytestmark = pytest.mark.needs("user_ns")


def owner_uid(fd: int) -> int:
    """The user who created the user namespace `fd`, as the caller's numbers them."""
    uid = ctypes.c_uint32()
    ioctl(fd, NS_GET_OWNER_UID, ctypes.addressof(uid))
    return uid.value


def inode_of_owner(fd: int) -> int:
    """Inode number of the owner of the namespace `fd`."""
    return inode_behind(open_owner(fd))


def inode_of_parent(fd: int) -> int:
    """Inode number of the parent of the namespace `fd`."""
    return inode_behind(open_parent(fd))


@pytest.mark.behaviour("IOC-02")
def test_owner_uid_is_the_creators_as_the_caller_sees_it() -> None:
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    with (
        Task(uid=SOMEBODY, caps=Cap.SYS_ADMIN) as creator,
        creator.spawn(NS.USER) as outer,  # maps SOMEBODY, and nobody else, to root
        outer.spawn(NS.USER) as inner,
        Task(NS.USER) as of_root,
    ):
        with ExitStack() as fds:
            made = [
                fds.enter_context(owned(open_ns(NS.USER, task.pid)))
                for task in (outer, inner, of_root)
            ]
            there = [outer.give(fd) for fd in made]
            assert [owner_uid(fd) for fd in made] == [SOMEBODY, SOMEBODY, 0]
        assert [outer.call(owner_uid, fd) for fd in there] == [0, 0, overflow]


@pytest.mark.behaviour("IOC-02")
def test_only_user_namespaces_have_an_owner_uid() -> None:
    with guarded_room() as room:
        for kind in configured_types(NS.USER):
            with opened(ns_link(kind)) as fd:
                for address in (room.start, 0):
                    assert errno_of(ioctl, fd, NS_GET_OWNER_UID, address) == EINVAL, kind.name


@pytest.mark.behaviour("IOC-02")
def test_owner_uid_needs_a_place_to_go() -> None:
    with opened(ns_link(NS.USER)) as fd, guarded_room() as room:
        for address in (0, UNMAPPED_ADDRESS, KERNEL_ADDRESS, room.end - 2):
            assert errno_of(ioctl, fd, NS_GET_OWNER_UID, address) == EFAULT
        assert ioctl(fd, NS_GET_OWNER_UID, room.end - 4) == 0


@pytest.mark.behaviour("IOC-03")
def test_owner_is_the_user_namespace_of_the_creator(stranger: Task) -> None:
    for kind in configured_types():
        with opened(ns_link(kind)) as ours, opened(ns_link(kind, stranger.pid)) as theirs:
            if kind == NS.USER:
                assert errno_of(open_owner, ours) == EPERM
                assert inode_of_owner(theirs) == inode_of(NS.USER)
            else:
                assert inode_of_owner(ours) == inode_of(NS.USER), kind.name
                assert inode_of_owner(theirs) == inode_of(NS.USER, stranger.pid), kind.name


@pytest.mark.behaviour("IOC-04")
def test_parent_of_a_user_namespace_is_where_it_was_made() -> None:
    with Task(NS.USER) as outer, outer.spawn(NS.USER) as inner:
        with opened(ns_link(NS.USER, inner.pid)) as fd:
            assert inode_of_parent(fd) == inode_of(NS.USER, outer.pid)
        with opened(ns_link(NS.USER, outer.pid)) as fd:
            assert inode_of_parent(fd) == inode_of(NS.USER)
    with opened(ns_link(NS.USER)) as fd:
        assert errno_of(open_parent, fd) == EPERM


@pytest.fixture
def outer() -> Iterator[Task]:
    """A task with namespaces of its own, a user namespace among them."""
    with Task(NS.USER | NS.UTS) as task:
        yield task


@pytest.mark.needs("uts_ns")
@pytest.mark.behaviour("IOC-03", "IOC-06")
def test_owners_above_are_not_shown(outer: Task) -> None:
    with opened(ns_link(NS.UTS)) as uts, opened(ns_link(NS.USER)) as user:
        uts, user = outer.give(uts), outer.give(user)
        assert errno_of(outer.call, open_owner, uts) == EPERM
        assert errno_of(outer.call, open_owner, user) == EPERM
        assert errno_of(outer.call, open_parent, user) == EPERM
    for call in (open_owner, open_parent):
        assert errno_of(outer.call, call, outer.call(open_ns, NS.USER)) == EPERM


@pytest.mark.needs("uts_ns")
@pytest.mark.behaviour("IOC-03", "IOC-06")
def test_owners_from_the_own_downwards_are_shown(outer: Task) -> None:
    with outer.spawn(NS.USER | NS.UTS) as inner, inner.spawn(NS.USER) as innermost:
        shown = {
            (outer, NS.UTS): outer,
            (inner, NS.UTS): inner,
            (inner, NS.USER): outer,
            (innermost, NS.USER): inner,
        }
        for (task, kind), owner in shown.items():
            with opened(ns_link(kind, task.pid)) as fd:
                there = outer.give(fd)
            assert outer.call(inode_of_owner, there) == inode_of(NS.USER, owner.pid)
            if kind == NS.USER:
                assert outer.call(inode_of_parent, there) == inode_of(NS.USER, owner.pid)


@pytest.mark.needs("uts_ns")
@pytest.mark.behaviour("IOC-03", "IOC-06")
def test_owners_beside_are_not_shown(outer: Task) -> None:
    with Task(NS.USER | NS.UTS) as sibling:
        with opened(ns_link(NS.UTS, outer.pid)) as uts, opened(ns_link(NS.USER, outer.pid)) as user:
            uts, user = sibling.give(uts), sibling.give(user)
        assert errno_of(sibling.call, open_owner, uts) == EPERM
        assert errno_of(sibling.call, open_owner, user) == EPERM
        assert errno_of(sibling.call, open_parent, user) == EPERM


@pytest.mark.behaviour("IOC-03", "IOC-06")
def test_being_below_counts_and_not_the_capabilities() -> None:
    with Task(uid=SOMEBODY, caps=Cap.NONE) as task, Task(NS.USER) as below:
        with opened(ns_link(NS.USER, below.pid)) as fd:
            there = task.give(fd)
        assert task.call(inode_of_owner, there) == inode_of(NS.USER)
        assert task.call(inode_of_parent, there) == inode_of(NS.USER)
