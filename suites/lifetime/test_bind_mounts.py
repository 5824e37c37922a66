# SPDX-License-Identifier: GPL-2.0-only
"""Namespaces that only a mount refers to: a bind mount of an nsfs file, or a copy of that."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from nslib import (
    AT_FDCWD,
    MNT_DETACH,
    MS_BIND,
    NS,
    OPEN_TREE_CLONE,
    Task,
    configured_types,
    hold,
    hold_each,
    hold_together,
    ids_of,
    mount,
    open_tree,
    release,
    umount,
    visible,
)

PLACE, OTHER_PLACE = "/proc/version", "/proc/uptime"
"""Files to mount on, which every mount namespace has; in those of the tasks nobody misses them."""


class Mounted(NamedTuple):
    """A uts namespace that nothing refers to but a bind mount at PLACE, in the mount namespace of
    `task`; `ids` are its own and that of its owner, a user namespace without tasks."""

    task: Task
    ids: set[int]


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    """A namespace that is mounted in a mount namespace of a task."""
    held = hold_together(NS.USER | NS.UTS)
    with Task(NS.MNT, keep_fds=[held[NS.UTS].fd]) as task:
        release(held.values())
        task.call(mount_fd, held[NS.UTS].fd)
        yield Mounted(task, {one.id for one in held.values()})


def mount_fd(fd: int, place: str = PLACE) -> None:
    """Bind-mount an nsfs file, and close the fd of it."""
    mount(f"/proc/self/fd/{fd}", place, flags=MS_BIND)
    os.close(fd)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-16")
def test_bind_mount_keeps_a_namespace(mounted: Mounted) -> None:
    assert visible(*mounted.ids) == mounted.ids
    mounted.task.call(umount, PLACE)
    assert not visible(*mounted.ids)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-16")
def test_bind_mounts_keep_namespaces_of_any_type() -> None:
    with Task(NS.MNT) as task:
        held = task.call(hold_each, configured_types())
        for one in held:
            task.call(mount_fd, one.fd)
        ids = ids_of(held)
        while ids:
            assert visible(*ids_of(held)) == set(ids)
            task.call(umount, PLACE)  # the topmost one
            ids.pop()
        assert not visible(*ids_of(held))


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-17")
def test_bind_mount_ends_with_its_mount_namespace(mounted: Mounted) -> None:
    assert visible(*mounted.ids) == mounted.ids
    mounted.task.zombie()
    assert not visible(*mounted.ids)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-18")
def test_copy_of_a_bind_mount_in_a_new_mount_namespace_keeps_a_namespace(mounted: Mounted) -> None:
    with mounted.task.spawn(NS.MNT) as copy:
        mounted.task.call(umount, PLACE)
        assert visible(*mounted.ids) == mounted.ids
        copy.call(umount, PLACE)
        assert not visible(*mounted.ids)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-18")
def test_copies_of_a_bind_mount_count_each(mounted: Mounted) -> None:
    with mounted.task.spawn(NS.MNT) as copy:
        copy.call(umount, PLACE)
        assert visible(*mounted.ids) == mounted.ids
        mounted.task.call(umount, PLACE)
        assert not visible(*mounted.ids)


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """On Linux 6.18 ids ascend on each CPU for itself only; the kernel tells by them which mount
    namespace is younger, and refuses to mount another one."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.behaviour("ACT-19")
def test_bind_mount_of_a_mount_namespace_is_not_copied() -> None:
    with Task(NS.MNT) as task:
        with task.spawn(NS.MNT) as younger:
            task.call(mount, f"/proc/{younger.pid}/ns/mnt", PLACE, flags=MS_BIND)
        task.call(mount, f"/proc/{task.pid}/ns/uts", OTHER_PLACE, flags=MS_BIND)
        assert _nsfs_mounts(task) == {PLACE: "mnt", OTHER_PLACE: "uts"}
        with task.spawn(NS.MNT) as copy:
            assert _nsfs_mounts(copy) == {OTHER_PLACE: "uts"}


def _nsfs_mounts(task: Task) -> dict[str, str]:
    """Types of the nsfs files that are mounted on our places in a task's mount namespace."""
    lines = Path(f"/proc/{task.pid}/mountinfo").read_text().splitlines()
    mounts = [line.split() for line in lines if " - nsfs " in line]
    types = {fields[4]: fields[3].partition(":")[0] for fields in mounts}
    return {place: types[place] for place in (PLACE, OTHER_PLACE) if place in types}


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-19")
def test_mount_namespace_that_is_mounted_ends_with_that_mount() -> None:
    with Task(NS.MNT) as task:
        mnt, fd = task.call(hold, NS.MNT)
        task.call(mount_fd, fd)
        with task.spawn(NS.MNT):
            assert visible(mnt)
            task.call(umount, PLACE)
            assert not visible(mnt)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-20")
def test_detaching_a_bind_mount_ends_the_namespace(mounted: Mounted) -> None:
    mounted.task.call(umount, PLACE, MNT_DETACH)
    assert not visible(*mounted.ids)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-20")
def test_fd_on_a_detached_bind_mount_keeps_the_namespace(mounted: Mounted) -> None:
    fd = mounted.task.call(os.open, PLACE, os.O_RDONLY)
    mounted.task.call(umount, PLACE, MNT_DETACH)
    assert visible(*mounted.ids) == mounted.ids
    mounted.task.call(os.close, fd)
    assert not visible(*mounted.ids)


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("ACT-21")
def test_detached_copy_of_a_bind_mount_keeps_a_namespace(mounted: Mounted) -> None:
    fd = mounted.task.call(open_tree, AT_FDCWD, PLACE, OPEN_TREE_CLONE)
    mounted.task.call(umount, PLACE)
    assert visible(*mounted.ids) == mounted.ids
    mounted.task.call(os.close, fd)
    assert not visible(*mounted.ids)
