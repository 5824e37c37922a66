# SPDX-License-Identifier: GPL-2.0-only
"""nsfs files: what an fd of a namespace is good for, however it came about."""

import os
import stat
from collections.abc import Iterator
from errno import EBADF, EINVAL, ENODEV, ESPIPE, ESTALE

import pytest
from nslib import (
    LINKS,
    NS,
    PAGE_SIZE,
    Held,
    NsHandle,
    Task,
    bind_mounted,
    configured_types,
    encode_handle,
    errno_of,
    file_system_of,
    hold,
    id_behind,
    id_of,
    mmap_file,
    ns_id,
    ns_link,
    open_handle,
    open_ns,
    opened,
    opening_errno,
    owned,
    owner_id_of,
    setns,
    type_of,
)

NSFS_MAGIC = 0x6E736673  # include/uapi/linux/magic.h

needs_handles = pytest.mark.needs("nsfs_handles")


@pytest.fixture
def of_task() -> Iterator[Task]:
    """A task with a namespace of its own of every type."""
    with Task(NS(sum(configured_types()))) as task:
        yield task


def join(fd: int, kind: NS) -> int:
    """Join a namespace; returns the id of the one where the caller, or its children, are then."""
    setns(fd, kind)
    return ns_id(kind.child_link)


@needs_handles
@pytest.mark.behaviour("NFH-27")
def test_fd_answers_to_ioctls(of_every_type: dict[NS, Held], handles: dict[NS, NsHandle]) -> None:
    for kind, held in of_every_type.items():
        with owned(open_handle(handles[kind])) as fd:
            assert (id_of(fd), type_of(fd)) == (held.id, kind)
            assert owner_id_of(fd) == ns_id(NS.USER), kind.name


@needs_handles
@pytest.mark.behaviour("NFH-27")
def test_fd_can_be_joined(of_task: Task) -> None:
    with Task() as joiner:
        # The user namespace first would take the right to join the others from the joiner's own.
        for kind in sorted(configured_types(), key=lambda kind: kind == NS.USER):
            with owned(open_ns(kind, of_task.pid)) as fd:
                theirs, handle = id_of(fd), encode_handle(fd).handle
            fd = joiner.call(open_handle, handle)
            assert joiner.call(join, fd, kind) == theirs, kind.name


@needs_handles
@pytest.mark.behaviour("NFH-27")
def test_fd_can_be_mounted(of_every_type: dict[NS, Held], handles: dict[NS, NsHandle]) -> None:
    for kind, held in of_every_type.items():
        with owned(open_handle(handles[kind])) as fd, bind_mounted(fd) as path:
            assert id_behind(os.open(path, os.O_RDONLY)) == held.id, kind.name


def fdinfo(fd: int) -> dict[str, str]:
    """The fields of /proc/self/fdinfo that tell where a file is."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: fields[name].strip() for name in ("ino", "mnt_id")}


@needs_handles
@pytest.mark.behaviour("NFH-28")
def test_every_open_gives_the_same_file(
    of_every_type: dict[NS, Held], handles: dict[NS, NsHandle]
) -> None:
    for kind, held in of_every_type.items():
        mount_id = encode_handle(held.fd).mount_id
        with owned(open_handle(handles[kind])) as one, owned(open_handle(handles[kind])) as other:
            for fd in (one, other):
                assert os.path.samestat(os.fstat(fd), os.fstat(held.fd)), kind.name
                expected = {"ino": f"{handles[kind].ns_inum}", "mnt_id": f"{mount_id}"}
                assert fdinfo(fd) == expected, kind.name


@needs_handles
@pytest.mark.behaviour("NFH-38")
def test_file_comes_back_the_same_after_the_last_close(of_task: Task) -> None:
    for kind in configured_types():
        with owned(open_ns(kind, of_task.pid)) as fd:
            handle, before = encode_handle(fd).handle, os.fstat(fd)
        one, other = open_handle(handle), open_handle(handle)
        assert os.path.samestat(before, os.fstat(one)), kind.name
        os.close(one)
        assert errno_of(id_of, one) == EBADF
        assert id_behind(other) == handle.ns_id, kind.name
        assert id_behind(open_handle(handle)) == ns_id(kind, of_task.pid), kind.name


@pytest.mark.needs("nsfs_handles", "active_refs")
@pytest.mark.behaviour("NFH-38")
def test_opening_again_and_again_does_not_outlast_the_task(of_task: Task) -> None:
    handles = []
    for kind in configured_types():
        with owned(open_ns(kind, of_task.pid)) as fd:
            handles.append(encode_handle(fd).handle)
    for _ in range(3):
        assert [opening_errno(handle) for handle in handles] == [0] * len(handles)
    of_task.reap()
    assert [opening_errno(handle) for handle in handles] == [ESTALE] * len(handles)


@pytest.mark.behaviour("NFH-39")
def test_file_has_nothing_to_read() -> None:
    for kind in configured_types():
        with opened(ns_link(kind)) as fd:
            status = os.fstat(fd)
            assert (status.st_mode, status.st_size) == (stat.S_IFREG | 0o444, 0), kind.name
            assert file_system_of(fd) == NSFS_MAGIC
            assert errno_of(os.read, fd, 1) == EINVAL
            assert errno_of(os.write, fd, b"x") == EBADF
            assert errno_of(mmap_file, fd, PAGE_SIZE) == ENODEV
            for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
                assert errno_of(os.lseek, fd, 0, whence) == ESPIPE


@pytest.mark.behaviour("NFH-40")
def test_fd_reads_as_type_and_inode_number() -> None:
    for name in LINKS:
        if not ns_link(name).exists():
            continue  # a type that the kernel lacks
        with owned(open_ns(name)) as fd:
            expected = f"{name.removesuffix('_for_children')}:[{os.fstat(fd).st_ino}]"
            assert os.readlink(f"/proc/self/fd/{fd}") == expected


@pytest.mark.needs("pidfd_ioctls")
@pytest.mark.behaviour("NFH-40")
@pytest.mark.parametrize("kind", [NS.PID, NS.TIME], ids=lambda kind: kind.link)
def test_namespace_of_children_reads_as_its_type(kind: NS) -> None:
    with owned(hold(kind).fd) as fd:
        assert os.readlink(f"/proc/self/fd/{fd}") == f"{kind.link}:[{os.fstat(fd).st_ino}]"
