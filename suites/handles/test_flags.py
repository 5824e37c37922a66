# SPDX-License-Identifier: GPL-2.0-only
"""The open flags of open_by_handle_at(2)."""

import os
from errno import EBADF, EEXIST, EINVAL, ENOTDIR, EPERM, ESTALE
from fcntl import F_GETFD, F_GETFL, FD_CLOEXEC, fcntl

import pytest
from nslib import (
    NS,
    NS_GET_ID,
    NS_GET_NSTYPE,
    NsHandle,
    encode_handle,
    errno_of,
    has_feature,
    hold,
    id_behind,
    id_of,
    ioctl,
    list_all,
    open_handle,
    open_owner,
    opening_errno,
    owned,
    setns,
)

pytestmark = pytest.mark.needs("nsfs_handles")

REFUSED = {
    os.O_WRONLY: EPERM,
    os.O_RDWR: EPERM,
    os.O_ACCMODE: EPERM,
    os.O_TRUNC: EPERM,
    os.O_WRONLY | os.O_CREAT: EPERM,
    os.O_DIRECT: EINVAL,
    os.O_TMPFILE: EINVAL,
    os.O_DIRECTORY: ENOTDIR,
}


@pytest.mark.behaviour("NFH-23")
def test_flag_is_refused(handle: NsHandle) -> None:
    assert {flags: opening_errno(handle, flags=flags) for flags in REFUSED} == REFUSED
    assert opening_errno(handle) == 0


@pytest.mark.behaviour("NFH-24")
def test_fd_is_closed_on_exec_on_request(handle: NsHandle) -> None:
    with owned(open_handle(handle, flags=os.O_RDONLY)) as fd:
        assert fcntl(fd, F_GETFD) == 0
        with owned(open_owner(fd)) as owner:
            assert fcntl(owner, F_GETFD) == FD_CLOEXEC
    with owned(open_handle(handle, flags=os.O_RDONLY | os.O_CLOEXEC)) as fd:
        assert fcntl(fd, F_GETFD) == FD_CLOEXEC
        assert fcntl(fd, F_GETFL) & os.O_ACCMODE == os.O_RDONLY


@pytest.mark.behaviour("NFH-25")
def test_path_fd_names_the_namespace_and_no_more(handle: NsHandle) -> None:
    with (
        owned(open_handle(handle, flags=os.O_PATH)) as fd,
        owned(open_handle(handle)) as readable,
    ):
        assert os.path.samestat(os.fstat(fd), os.fstat(readable))
        assert os.readlink(f"/proc/self/fd/{fd}") == f"uts:[{handle.ns_inum}]"
        for request in (NS_GET_NSTYPE, NS_GET_ID):
            assert errno_of(ioctl, fd, request) == EBADF
        assert errno_of(setns, fd, NS.UTS) == errno_of(setns, fd) == EBADF
        assert id_behind(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)) == handle.ns_id


@pytest.mark.behaviour("NFH-25")
def test_path_fd_keeps_the_namespace_active() -> None:
    held = hold(NS.UTS)
    handle = encode_handle(held.fd).handle
    with owned(open_handle(handle, flags=os.O_PATH)):
        os.close(held.fd)
        assert id_behind(open_handle(handle)) == held.id
        assert not has_feature("listns") or held.id in list_all(NS.UTS)
    assert opening_errno(handle) == ESTALE
    assert not has_feature("listns") or held.id not in list_all(NS.UTS)


@pytest.mark.behaviour("NFH-26")
def test_nothing_is_created(handle: NsHandle) -> None:
    assert opening_errno(handle, flags=os.O_CREAT | os.O_EXCL) == EEXIST
    with owned(open_handle(handle, flags=os.O_CREAT)) as fd:
        assert id_of(fd) == handle.ns_id
