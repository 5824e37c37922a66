# SPDX-License-Identifier: GPL-2.0-only
"""Who may open the handle of a namespace: who is in it, and who may see all namespaces.

The latter takes CAP_SYS_ADMIN over the initial user namespace, from the initial pid namespace
(may_see_all_namespaces() in kernel/nscommon.c).
"""

import os
import threading
from collections.abc import Iterable
from errno import ESTALE

import pytest
from nslib import (
    NS,
    SOMEBODY,
    Cap,
    NsHandle,
    PidfdGet,
    Task,
    configured_types,
    encode_handle,
    open_handle,
    open_ns,
    open_of_pidfd,
    opening_errno,
    owned,
    set_effective_caps,
    unshare,
)

pytestmark = pytest.mark.needs("nsfs_handles")


def handles_of(pid: int | str = "self") -> dict[NS, NsHandle]:
    """The handles of the namespaces that a task is in."""
    found = {}
    for kind in configured_types():
        with owned(open_ns(kind, pid)) as fd:
            found[kind] = encode_handle(fd).handle
    return found


def errnos(handles: dict[NS, NsHandle]) -> dict[NS, int]:
    """With which errno the caller fails to open each handle, and its id; 0 if it opens."""
    found = {}
    for kind, handle in handles.items():
        found[kind] = opening_errno(handle)
        if found[kind]:
            assert opening_errno(NsHandle(handle.ns_id)) == ESTALE, kind.name
    return found


def all_stale(kinds: Iterable[NS]) -> dict[NS, int]:
    """What errnos() gives if no handle opens."""
    return dict.fromkeys(kinds, ESTALE)


def all_open(kinds: Iterable[NS]) -> dict[NS, int]:
    """What errnos() gives if all handles open."""
    return dict.fromkeys(kinds, 0)


def own_files_reopened() -> list[NS]:
    """The types for which the caller's own handle does not give the same file as its link."""
    differ = []
    for kind in configured_types():
        with owned(open_ns(kind)) as fd, owned(open_handle(encode_handle(fd).handle)) as other:
            if not os.path.samestat(os.fstat(fd), os.fstat(other)):
                differ.append(kind)
    return differ


@pytest.mark.behaviour("NFH-07")
@pytest.mark.parametrize("kinds", [NS.NONE, NS.ALL & ~NS.USER], ids=["inherited", "new"])
def test_unprivileged_user_opens_its_own(kinds: NS, new_handles: dict[NS, NsHandle]) -> None:
    with Task(kinds & NS(sum(configured_types())), uid=65534, caps=Cap.NONE) as task:
        assert task.call(own_files_reopened) == []
        assert errnos(new_handles) == all_open(new_handles)
        assert task.call(errnos, new_handles) == all_stale(new_handles)


def opened_by_new_thread(handles: dict[NS, NsHandle]) -> list[int]:
    """With which errnos a new thread in a uts namespace of its own opens: the handle of that, that
    of the other threads, and that of a namespace that it shares with them."""
    found: list[int] = []

    def run() -> None:
        unshare(NS.UTS)
        own = handles_of("thread-self")[NS.UTS]
        found.extend(opening_errno(one) for one in (own, handles[NS.UTS], handles[NS.MNT]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


@pytest.mark.needs("user_ns", "uts_ns")
@pytest.mark.behaviour("NFH-07")
def test_thread_opens_its_own_and_not_that_of_others() -> None:
    shared = handles_of()
    with Task(NS.USER) as task:
        assert task.call(opened_by_new_thread, shared) == [0, ESTALE, 0]
        assert task.call(opening_errno, shared[NS.UTS]) == 0


@pytest.mark.behaviour("NFH-07")
def test_any_user_with_sys_admin_opens_all(new_handles: dict[NS, NsHandle]) -> None:
    with Task(uid=SOMEBODY, caps=Cap.SYS_ADMIN) as task:
        assert task.call(errnos, new_handles) == all_open(new_handles)
        task.call(set_effective_caps, Cap.NONE)
        assert task.call(errnos, new_handles) == all_stale(new_handles)


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("NFH-30", "NFH-31", "NFH-32")
@pytest.mark.parametrize(
    "kinds",
    [NS.NONE, NS.MNT | NS.UTS | NS.NET | NS.PID, NS.IPC | NS.CGROUP | NS.TIME],
    ids=["none", "some", "others"],
)
def test_root_of_a_user_namespace_opens_what_it_shares(kinds: NS) -> None:
    new = (NS.USER | kinds) & NS(sum(configured_types()))
    with Task(new) as task:
        ours = handles_of()
        assert errnos(ours) == all_open(ours)
        assert task.call(errnos, ours) == {kind: ESTALE if kind & new else 0 for kind in ours}
        assert task.call(own_files_reopened) == []


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("NFH-32")
def test_parent_user_namespace_does_not_open_from_below() -> None:
    with Task(NS.USER) as outer, outer.spawn(NS.USER) as inner:
        handle = handles_of(outer.pid)[NS.USER]
        assert opening_errno(handle) == outer.call(opening_errno, handle) == 0
        assert inner.call(opening_errno, handle) == ESTALE


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("NFH-33")
def test_sibling_in_the_same_user_namespace_does_not_open() -> None:
    theirs = NS(sum(configured_types(NS.USER)))
    with Task(NS.USER) as task, task.spawn(theirs) as sibling:
        handles = handles_of(sibling.pid)
        del handles[NS.USER]
        assert errnos(handles) == all_open(handles)
        assert sibling.call(errnos, handles) == all_open(handles)
        assert task.call(errnos, handles) == all_stale(handles)


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("NFH-33")
def test_child_user_namespace_does_not_open_from_above() -> None:
    with Task(NS.USER) as task, task.spawn(NS.USER) as below:
        handle = handles_of(below.pid)[NS.USER]
        assert opening_errno(handle) == 0
        assert task.call(opening_errno, handle) == ESTALE


@pytest.mark.needs("user_ns", "pid_ns", "time_ns", "pidfd_ioctls")
@pytest.mark.behaviour("NFH-33")
def test_namespace_of_its_children_does_not_open() -> None:
    with Task(NS.USER) as task:
        for kind in (NS.PID, NS.TIME):
            handle = task.call(handle_for_children, kind)
            assert opening_errno(handle) == 0
            assert task.call(opening_errno, handle) == ESTALE


def handle_for_children(kind: NS) -> NsHandle:
    """The handle of a new namespace that the caller's children will be in, which stays."""
    unshare(kind)
    name = PidfdGet[kind.child_link.upper()]
    with owned(os.pidfd_open(os.getpid())) as pidfd, owned(open_of_pidfd(pidfd, name)) as fd:
        return encode_handle(fd).handle


@pytest.mark.needs("pid_ns")
@pytest.mark.behaviour("NFH-34")
def test_root_in_a_child_pid_namespace_opens_its_own(new_handles: dict[NS, NsHandle]) -> None:
    with Task(NS.PID) as task:
        ours = handles_of()
        assert errnos(new_handles) == all_open(new_handles)
        assert task.call(errnos, new_handles) == all_stale(new_handles)
        assert task.call(errnos, ours) == {**all_open(ours), NS.PID: ESTALE}
        assert task.call(own_files_reopened) == []


@pytest.mark.needs("pid_ns", "pidfd_ioctls")
@pytest.mark.behaviour("NFH-34")
def test_pid_namespace_of_children_takes_nothing_away(
    new_handles: dict[NS, NsHandle],
) -> None:
    with Task() as task:
        task.call(unshare, NS.PID)
        assert task.call(errnos, new_handles) == all_open(new_handles)
