# SPDX-License-Identifier: GPL-2.0-only
"""Mounting the files of mount namespaces: only younger ones than one's own, so that no mount
namespace can hold itself (mnt_ns_loop() in fs/namespace.c)."""

import os
from collections.abc import Iterator
from errno import EINVAL

import pytest
from nslib import (
    AT_EMPTY_PATH,
    MNT_DETACH,
    MS_BIND,
    MS_REC,
    NS,
    OPEN_TREE_CLONE,
    Task,
    detached_mount,
    errno_of,
    has_feature,
    hold_fd,
    mnt_ns_info,
    mount,
    move_mount,
    ns_link,
    open_ns,
    open_tree,
    opened,
    owned,
    setns,
    umount,
)


def errno_of_mounting(fd: int, target: str = "/proc/version", flags: int = MS_BIND) -> int:
    """With which errno the bind mount of the file `fd` fails, 0 if it succeeds; it is undone."""
    failed = errno_of(mount, f"/proc/self/fd/{fd}", target, flags=flags)
    if not failed:
        umount(target, MNT_DETACH)
    return failed


@pytest.mark.behaviour("IOC-27")
def test_only_a_younger_mount_namespace_can_be_mounted() -> None:
    with (
        owned(hold_fd(NS.MNT)) as older,
        Task(NS.MNT) as task,
        owned(hold_fd(NS.MNT)) as younger,
        opened(ns_link(NS.MNT)) as initial,
        opened(ns_link(NS.MNT, task.pid)) as own,
    ):
        expected = {initial: EINVAL, older: EINVAL, own: EINVAL, younger: 0}
        if has_feature("mnt_ns_info"):
            # Up to Linux 6.18 ids need not be in the order of creation.
            start = mnt_ns_info(own).mnt_ns_id
            expected = {fd: 0 if mnt_ns_info(fd).mnt_ns_id > start else EINVAL for fd in expected}
        assert {fd: task.call(errno_of_mounting, task.give(fd)) for fd in expected} == expected


@pytest.mark.behaviour("IOC-27")
def test_other_types_can_be_mounted() -> None:
    with Task(NS.MNT) as task:
        for kind in (NS.USER, NS.UTS, NS.NET):
            if ns_link(kind).exists():
                assert task.call(errno_of_mounting, task.call(open_ns, kind)) == 0, kind.name


def tree_with(fd: int) -> int:
    """A detached tree of mounts with the file `fd` mounted in it."""
    tree = detached_mount()
    os.close(os.open("file", os.O_CREAT | os.O_RDONLY, dir_fd=tree))
    with owned(open_tree(fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)) as mounted:
        move_mount(mounted, tree, "file")
    return tree


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Keep this process and its children on one CPU, where ids ascend on Linux 6.18 too."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.needs("uts_ns", "detached_trees")
@pytest.mark.behaviour("IOC-28")
def test_tree_with_an_older_mount_namespace_cannot_be_mounted() -> None:
    with Task(NS.MNT) as task:
        older, younger = task.call(hold_fd, NS.MNT), task.call(hold_fd, NS.MNT)
        plain = task.call(tree_with, task.call(open_ns, NS.UTS))
        loaded = task.call(tree_with, older)
        assert task.call(errno_of_mounting, loaded, "/dev", MS_BIND | MS_REC) == 0
        for current in (older, younger):
            task.call(setns, current, NS.MNT)
            assert task.call(errno_of_mounting, plain, "/dev", MS_BIND | MS_REC) == 0
            assert task.call(errno_of_mounting, loaded, "/dev", MS_BIND) == 0
            assert task.call(errno_of_mounting, loaded, "/dev", MS_BIND | MS_REC) == EINVAL
