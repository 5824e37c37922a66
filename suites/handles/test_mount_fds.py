# SPDX-License-Identifier: GPL-2.0-only
"""The mount fd of open_by_handle_at(2): which file system is asked (fs/fhandle.c)."""

import os
from errno import EBADF, ESTALE

import pytest
from nslib import (
    AT_FDCWD,
    FD_NSFS_ROOT,
    FD_PIDFS_ROOT,
    NS,
    NsHandle,
    configured_types,
    id_behind,
    ns_link,
    open_handle,
    opened,
    opening_errno,
    owned,
)

pytestmark = pytest.mark.needs("nsfs_handles")


@pytest.mark.behaviour("NFH-08")
def test_any_nsfs_fd_stands_for_the_file_system(handle: NsHandle) -> None:
    for kind in configured_types():
        with opened(ns_link(kind)) as mount_fd:
            assert id_behind(open_handle(handle, mount_fd)) == handle.ns_id, kind.name


@pytest.mark.behaviour("NFH-09")
def test_negative_number_without_meaning_is_no_mount_fd(handle: NsHandle) -> None:
    for number in (-1, -9999, FD_NSFS_ROOT - 1, -10009, -(2**31)):
        assert opening_errno(handle, number) == EBADF, number


@pytest.mark.behaviour("NFH-09")
def test_closed_fd_and_path_fd_are_no_mount_fds(handle: NsHandle) -> None:
    with opened(ns_link(NS.MNT)) as fd:
        assert opening_errno(handle, fd) == 0
    assert opening_errno(handle, fd) == EBADF
    with opened(ns_link(NS.MNT), os.O_PATH) as fd:
        assert opening_errno(handle, fd) == EBADF


@pytest.mark.behaviour("NFH-10")
def test_other_file_system_does_not_know_the_handle(handle: NsHandle) -> None:
    for path in ("/dev", "/proc", "/sys"):
        with opened(path) as mount_fd:
            assert opening_errno(handle, mount_fd) == ESTALE, path
    assert opening_errno(handle, AT_FDCWD) == ESTALE


@pytest.mark.behaviour("NFH-10")
def test_pidfs_does_not_know_the_handle(handle: NsHandle) -> None:
    with owned(os.pidfd_open(os.getpid())) as pidfd:
        for mount_fd in (FD_PIDFS_ROOT, pidfd):
            assert opening_errno(handle, mount_fd) == ESTALE
