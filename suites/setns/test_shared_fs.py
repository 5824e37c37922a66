# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) by who shares root and working directory with another (CLONE_FS)."""

import threading
from errno import EINVAL

import pytest
from nslib import (
    CLONE_FS,
    NS,
    Idle,
    Task,
    configured_mask,
    configured_types,
    errno_of,
    ns_names,
    open_ns,
    owned,
    setns,
)

pytestmark = pytest.mark.needs("user_ns", "uts_ns")


def errnos_with_shared_fs(fd: int, flags: list[NS]) -> set[int]:
    """What setns() answers for each of the flags, 0 for success, to a process that shares."""
    with Idle(CLONE_FS):
        return {errno_of(setns, fd, one) for one in flags}


def errnos_in_thread(fd: int, flags: list[NS]) -> set[int]:
    """What setns() answers to a thread: all threads of Python share."""
    errnos: set[int] = set()
    thread = threading.Thread(
        target=lambda: errnos.update(errno_of(setns, fd, one) for one in flags)
    )
    thread.start()
    thread.join()
    return errnos


@pytest.mark.behaviour("SNS-22")
def test_user_and_mount_namespace_are_refused(joiner: Task, target: Idle) -> None:
    before = ns_names(joiner.pid)
    pidfd = joiner.give(target.pidfd)
    for kind in (NS.USER, NS.MNT):
        with owned(open_ns(kind, target.pid)) as fd:
            file = joiner.give(fd)
        assert joiner.call(errnos_with_shared_fs, file, [kind, NS.NONE]) == {EINVAL}
        assert joiner.call(errnos_with_shared_fs, pidfd, [kind]) == {EINVAL}
    assert ns_names(joiner.pid) == before
    assert joiner.call(errno_of, setns, pidfd, NS.USER | NS.MNT) == 0


@pytest.mark.behaviour("SNS-22")
def test_user_namespace_is_refused_with_others_too(joiner: Task, target: Idle) -> None:
    before = ns_names(joiner.pid)
    flags = [NS.USER | kind for kind in configured_types(NS.USER)] + [configured_mask()]
    fd = joiner.give(target.pidfd)
    assert joiner.call(errnos_with_shared_fs, fd, flags) == {EINVAL}
    assert ns_names(joiner.pid) == before


@pytest.mark.behaviour("SNS-22")
def test_mount_namespace_is_refused_with_others_too(joiner: Task) -> None:
    before = ns_names(joiner.pid)
    flags = [NS.MNT | kind for kind in configured_types(NS.USER, NS.MNT, NS.TIME)]
    with Idle(configured_mask(NS.USER, NS.TIME)) as target:
        fd = joiner.give(target.pidfd)
        assert joiner.call(errnos_with_shared_fs, fd, flags) == {EINVAL}
        assert joiner.call(errnos_in_thread, fd, [NS.MNT, *flags]) == {EINVAL}
    assert ns_names(joiner.pid) == before


@pytest.mark.behaviour("SNS-22")
def test_other_types_are_not_refused(joiner: Task) -> None:
    kinds = configured_types(NS.USER, NS.MNT, NS.TIME)
    with Idle(configured_mask(NS.USER, NS.TIME)) as target:
        fd = joiner.give(target.pidfd)
        flags = [*kinds, configured_mask(NS.USER, NS.MNT, NS.TIME)]
        assert joiner.call(errnos_with_shared_fs, fd, flags) == {0}
        assert ns_names(joiner.pid)["uts"] == ns_names(target.pid)["uts"]
