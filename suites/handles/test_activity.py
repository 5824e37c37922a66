# SPDX-License-Identifier: GPL-2.0-only
"""Handles and the life of namespaces: inactive ones do not open, failing opens leave nothing."""

import os
from collections.abc import Callable
from dataclasses import replace
from errno import EMFILE, ENOSPC, ESTALE

import pytest
from nslib import (
    NS,
    PINNABLE,
    NsHandle,
    Task,
    encode_handle,
    errno_of,
    hold,
    id_of,
    limit_namespaces,
    list_all,
    no_more_fds,
    ns_id,
    open_handle,
    open_ns,
    opening_errno,
    owned,
    pinned,
    setns,
)

pytestmark = pytest.mark.needs("nsfs_handles")


@pytest.mark.needs("active_refs", "id_handles")
@pytest.mark.behaviour("NFH-17")
@pytest.mark.parametrize("kind", PINNABLE, ids=lambda kind: kind.link)
def test_inactive_namespace_does_not_open(kind: NS) -> None:
    with Task(kind) as task, pinned(task, kind):
        with owned(open_ns(kind, task.pid)) as fd:
            handle = encode_handle(fd).handle
        assert opening_errno(handle) == opening_errno(NsHandle(handle.ns_id)) == 0
        task.reap()
        assert opening_errno(handle) == opening_errno(NsHandle(handle.ns_id)) == ESTALE


@pytest.mark.needs("pid_ns", "pidfd_ioctls")
@pytest.mark.behaviour("NFH-35")
def test_pid_namespace_without_init_opens() -> None:
    with owned(hold(NS.PID).fd) as fd:
        handle = encode_handle(fd).handle
        with owned(open_handle(handle)) as opened:
            assert id_of(opened) == handle.ns_id
            assert os.path.samestat(os.fstat(opened), os.fstat(fd))


@pytest.mark.needs("pid_ns", "pidfd_ioctls")
@pytest.mark.behaviour("NFH-36")
def test_first_child_in_an_opened_pid_namespace_is_init() -> None:
    with owned(hold(NS.PID).fd) as fd, owned(open_handle(encode_handle(fd).handle)) as opened:
        assert pid_of_first_child(opened) == 1


def pid_of_first_child(pid_ns: int) -> int:
    """The pid that the caller's next child has in a pid namespace; it ends at once."""
    with owned(open_ns(NS.PID)) as own:
        setns(pid_ns, NS.PID)
        try:
            child = os.fork()
            if child == 0:
                os._exit(os.getpid())
        finally:
            setns(own, NS.PID)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.behaviour("NFH-37")
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH], ids=["O_RDONLY", "O_PATH"])
def test_opening_without_a_free_fd_does_not_keep_the_namespace(flags: int) -> None:
    with owned(hold(NS.UTS).fd) as fd:
        handle = encode_handle(fd).handle
        with no_more_fds():
            assert opening_errno(handle, flags=flags) == EMFILE
        assert opening_errno(handle, flags=flags) == 0
    assert opening_errno(handle) == ESTALE


@pytest.mark.needs("listns", "id_handles")
@pytest.mark.behaviour("NFH-37")
def test_opening_without_a_free_fd_leaves_owner_and_owned_to_end() -> None:
    with Task(NS.USER | NS.NET) as task:
        ids = ns_id(NS.USER, task.pid), ns_id(NS.NET, task.pid)
        assert set(ids) <= set(list_all())
        with no_more_fds():
            assert [opening_errno(NsHandle(one)) for one in ids] == [EMFILE] * 2
        task.reap()
        assert not set(ids) & set(list_all())
        assert [opening_errno(NsHandle(one)) for one in ids] == [ESTALE] * 2


def _open_by_wrong_inode_number(handle: NsHandle) -> None:
    assert opening_errno(replace(handle, ns_inum=handle.ns_inum + 1)) == ESTALE


def _open_by_wrong_type(handle: NsHandle) -> None:
    assert opening_errno(replace(handle, ns_type=NS.NET)) == ESTALE


def _open_with_tail(handle: NsHandle) -> None:
    assert opening_errno(replace(handle, handle_bytes=128, tail=b"\xff" * 112)) == ESTALE


def _open_for_writing(handle: NsHandle) -> None:
    assert opening_errno(handle, flags=os.O_RDWR) != 0


def _open_without_a_free_fd(handle: NsHandle) -> None:
    with no_more_fds():
        assert opening_errno(handle) == EMFILE


def _open_without_permission(handle: NsHandle) -> None:
    with Task(NS.USER | NS.UTS) as task:
        assert task.call(opening_errno, handle) == ESTALE


def _open_as_path(handle: NsHandle) -> None:
    assert opening_errno(handle, flags=os.O_PATH) == 0


def _open(handle: NsHandle) -> None:
    assert opening_errno(handle) == 0


WAYS = {
    _open_by_wrong_inode_number: "NFH-14",
    _open_by_wrong_type: "NFH-13",
    _open_with_tail: "NFH-21",
    _open_for_writing: "NFH-23",
    _open_as_path: "NFH-25",
    _open: "NFH-27",
    _open_without_permission: "NFH-30",
    _open_without_a_free_fd: "NFH-37",
}


def new_uts() -> int:
    """An fd of a new uts namespace."""
    return hold(NS.UTS).fd


@pytest.mark.needs("user_ns", "uts_ns")
@pytest.mark.parametrize(
    "attempt",
    [pytest.param(way, marks=pytest.mark.behaviour(row)) for way, row in WAYS.items()],
    ids=lambda way: way.__name__.removeprefix("_"),
)
def test_attempt_leaves_no_reference(attempt: Callable[[NsHandle], None]) -> None:
    with Task(NS.USER | NS.UTS) as owner:
        owner.call(limit_namespaces, NS.UTS, 2)
        with owned(owner.fetch(new_uts)) as fd:
            assert errno_of(owner.call, new_uts) == ENOSPC
            attempt(encode_handle(fd).handle)
        # Had the attempt left a reference, there would be no room for another one.
        os.close(owner.fetch(new_uts))
