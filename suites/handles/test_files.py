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
    PidfdGet,
    Task,
    bind_mounted,
    configured_types,
    encode_handle,
    errno_of,
    file_system_of,
    has_feature,
    hold_fd,
    id_behind,
    id_of,
    mmap_file,
    ns_id,
    ns_link,
    open_handle,
    open_ns,
    open_of_pidfd,
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
    # Not by the link, which is not there before Linux 7.1 if a pid namespace has no init.
    with owned(os.pidfd_open(os.getpid())) as pidfd:
        return id_behind(open_of_pidfd(pidfd, PidfdGet[kind.child_link.upper()]))


@needs_handles
@pytest.mark.behaviour("NFH-27")
def test_fd_answers_to_ioctls_and_can_be_mounted(
    of_every_type: dict[NS, Held], new_handles: dict[NS, NsHandle]
) -> None:
    for kind, held in of_every_type.items():
        with owned(open_handle(new_handles[kind])) as fd, bind_mounted(fd) as path:
            assert (id_of(fd), type_of(fd)) == (held.id, kind)
            assert owner_id_of(fd) == ns_id(NS.USER), kind.name
            assert id_behind(os.open(path, os.O_RDONLY)) == held.id, kind.name


@needs_handles
@pytest.mark.behaviour("NFH-27")
def test_fd_can_be_joined(of_every_type: dict[NS, Held], new_handles: dict[NS, NsHandle]) -> None:
    with Task() as joiner:
        # A user namespace takes away the right to join what its parent owns.
        for kind in sorted(of_every_type, key=lambda kind: kind == NS.USER):
            fd = joiner.call(open_handle, new_handles[kind])
            assert joiner.call(join, fd, kind) == of_every_type[kind].id, kind.name


def fdinfo(fd: int) -> dict[str, str]:
    """The fields of /proc/self/fdinfo that tell where a file is."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: fields[name].strip() for name in ("ino", "mnt_id")}


@needs_handles
@pytest.mark.behaviour("NFH-28")
def test_every_open_gives_the_same_file(own_handles: dict[NS, NsHandle]) -> None:
    for kind, handle in own_handles.items():
        with (
            opened(ns_link(kind)) as linked,
            owned(open_handle(handle)) as one,
            owned(open_handle(handle)) as other,
        ):
            expected = {"ino": f"{handle.ns_inum}", "mnt_id": f"{encode_handle(linked).mount_id}"}
            for fd in (one, other):
                assert os.path.samestat(os.fstat(fd), os.fstat(linked)), kind.name
                assert fdinfo(fd) == expected, kind.name


@needs_handles
@pytest.mark.behaviour("NFH-38")
def test_file_comes_back_the_same_after_the_last_close(of_task: Task) -> None:
    handles = {}
    for kind in configured_types():
        with owned(open_ns(kind, of_task.pid)) as fd:
            handle, before = encode_handle(fd).handle, os.fstat(fd)
        one, other = open_handle(handle), open_handle(handle)
        assert os.path.samestat(before, os.fstat(one)), kind.name
        os.close(one)
        assert errno_of(id_of, one) == EBADF
        assert id_behind(other) == handle.ns_id, kind.name
        handles[kind] = handle
    assert [opening_errno(handle) for handle in handles.values()] == [0] * len(handles)
    of_task.reap()
    if has_feature("active_refs"):
        ended = [opening_errno(handle) for handle in handles.values()]
        assert ended == [ESTALE] * len(handles)


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
    with owned(hold_fd(kind)) as fd:
        assert os.readlink(f"/proc/self/fd/{fd}") == f"{kind.link}:[{os.fstat(fd).st_ino}]"
