# SPDX-License-Identifier: GPL-2.0-only
"""Handles and the life of namespaces: inactive ones do not open, failing opens leave nothing."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from errno import EMFILE, ENOSPC, EPERM, ESTALE

import pytest
from nslib import (
    FILEID_NSFS,
    NS,
    PINNABLE,
    NsHandle,
    Task,
    configured_types,
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
def test_inactive_namespace_does_not_open() -> None:
    kinds = set(PINNABLE) & set(configured_types())
    with Task(NS(sum(kinds))) as task, ExitStack() as pins:
        handles = []
        for kind in kinds:
            pins.enter_context(pinned(task, kind))
            with owned(open_ns(kind, task.pid)) as fd:
                handles.append(encode_handle(fd).handle)
        forms = [*handles, *(NsHandle(handle.ns_id) for handle in handles)]
        assert [opening_errno(one) for one in forms] == [0] * len(forms)
        task.reap()
        assert [opening_errno(one) for one in forms] == [ESTALE] * len(forms)


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
def test_opening_without_a_free_fd_does_not_keep_the_namespace() -> None:
    with owned(hold(NS.UTS).fd) as fd:
        handle = encode_handle(fd).handle
        for flags in (os.O_RDONLY, os.O_PATH):
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


def new_uts() -> int:
    """An fd of a new uts namespace."""
    return hold(NS.UTS).fd


@pytest.fixture
def cramped() -> Iterator[Task]:
    """A task whose user namespace has room for one uts namespace besides its own.

    Such a namespace counts until its last reference is gone, active or not.
    """
    with Task(NS.USER | NS.UTS) as task:
        task.call(limit_namespaces, NS.UTS, 2)
        yield task


def attempts(handle: NsHandle) -> Iterator[tuple[str, int]]:
    """Open a handle in ways that fail, and in some that do not: what way, and with what errno."""
    yield "open", opening_errno(handle)
    yield "path", opening_errno(handle, flags=os.O_PATH)
    yield "inode", opening_errno(replace(handle, ns_inum=handle.ns_inum + 1))
    yield "type", opening_errno(replace(handle, ns_type=NS.NET))
    yield "tail", opening_errno(replace(handle, handle_bytes=128, tail=b"\xff" * 112))
    yield "connectable", opening_errno(replace(handle, handle_type=0x10000 | FILEID_NSFS))
    yield "write", opening_errno(handle, flags=os.O_RDWR)
    with no_more_fds():
        yield "no fd", opening_errno(handle)


@pytest.mark.needs("user_ns", "uts_ns")
@pytest.mark.behaviour("NFH-37")
def test_no_attempt_to_open_leaves_a_reference(cramped: Task) -> None:
    with owned(cramped.fetch(new_uts)) as fd:
        assert errno_of(cramped.call, new_uts) == ENOSPC
        found = dict(attempts(encode_handle(fd).handle))
    assert list(found.values()) == [0, 0, ESTALE, ESTALE, ESTALE, ESTALE, EPERM, EMFILE]
    os.close(cramped.fetch(new_uts))


@pytest.mark.needs("user_ns", "uts_ns")
@pytest.mark.behaviour("NFH-30")
def test_refusal_leaves_no_reference(cramped: Task) -> None:
    with Task(NS.USER | NS.UTS) as stranger:
        with owned(cramped.fetch(new_uts)) as fd:
            handle = encode_handle(fd).handle
            assert stranger.call(opening_errno, handle) == ESTALE
            assert stranger.call(opening_errno, NsHandle(handle.ns_id)) == ESTALE
        os.close(cramped.fetch(new_uts))
