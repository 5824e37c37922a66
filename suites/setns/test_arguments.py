# SPDX-License-Identifier: GPL-2.0-only
"""setns(2): which fds and flags it takes."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBADF, EINVAL

import pytest
from nslib import (
    CLONE_VM,
    NS,
    Idle,
    Task,
    configured_types,
    errno_of,
    errno_of_joining_file,
    ns_link,
    ns_name,
    ns_names,
    open_ns,
    opened,
    owned,
    setns,
)

FOREIGN_BITS = [1 << number for number in range(32) if not 1 << number & NS.ALL]


@contextmanager
def own_pidfd() -> Iterator[int]:
    """A pidfd of the calling process."""
    with owned(os.pidfd_open(os.getpid())) as pidfd:
        yield pidfd


def refused(fd: int, flags: list[int]) -> dict[int, int]:
    """The errno of setns() for each of the flags, 0 where it succeeds."""
    return {one: errno_of(setns, fd, one) for one in flags}


@pytest.mark.behaviour("SNS-01")
def test_what_is_no_open_file_is_refused() -> None:
    with opened("/proc/self") as closed:
        pass
    pidfd_self = [-10000, -10001]  # PIDFD_SELF_THREAD, PIDFD_SELF_THREAD_GROUP
    for fd in (closed, -1, 2**31 - 1, *pidfd_self):
        assert refused(fd, [0, NS.UTS, CLONE_VM]) == {0: EBADF, NS.UTS: EBADF, CLONE_VM: EBADF}, fd


@pytest.mark.behaviour("SNS-01")
def test_path_descriptor_is_refused() -> None:
    for kind in configured_types(NS.USER):
        with opened(ns_link(kind), os.O_PATH) as fd:
            assert refused(fd, [0, kind]) == {0: EBADF, kind: EBADF}


@pytest.mark.behaviour("SNS-02")
def test_file_of_another_kind_is_refused() -> None:
    reader, writer = os.pipe()
    others = [os.memfd_create("other"), socket.socket().detach(), reader, writer]
    # A directory of /proc stands for a process elsewhere (pidfd_send_signal(2)), but not here.
    others += [os.open(f"/proc/self{path}", os.O_RDONLY) for path in ("", "/ns", "/status")]
    for fd in others:
        assert refused(fd, [0, NS.UTS]) == {0: EINVAL, NS.UTS: EINVAL}, fd
        os.close(fd)


@pytest.mark.behaviour("SNS-03")
def test_pidfd_needs_flags() -> None:
    with own_pidfd() as pidfd:
        assert errno_of(setns, pidfd, 0) == EINVAL


@pytest.mark.behaviour("SNS-04")
def test_pidfd_takes_no_flag_but_types() -> None:
    wrong = [-1, *FOREIGN_BITS, *(NS.UTS | bit for bit in FOREIGN_BITS), NS.USER | CLONE_VM]
    with own_pidfd() as pidfd:
        assert refused(pidfd, wrong) == dict.fromkeys(wrong, EINVAL)
        assert errno_of(setns, pidfd, NS.UTS) == 0


@pytest.mark.behaviour("SNS-05")
def test_wrong_flags_win_over_a_dead_target() -> None:
    wrong = [0, -1, CLONE_VM, NS.UTS | CLONE_VM]
    with Idle() as target:
        target.zombie()
        assert refused(target.pidfd, wrong) == dict.fromkeys(wrong, EINVAL)
        target.reap()
        assert refused(target.pidfd, wrong) == dict.fromkeys(wrong, EINVAL)


@pytest.mark.behaviour("SNS-06")
def test_namespace_descriptor_goes_without_flags_or_with_its_type(
    joiner: Task, whole_target: Task
) -> None:
    with Task() as other:
        for kind in configured_types():
            of_target = ns_name(kind, whole_target.pid)
            with owned(open_ns(kind, whole_target.pid)) as fd:
                for task, flags in ((joiner, 0), (other, kind)):
                    assert errno_of_joining_file(task, fd, flags) == 0, (kind, flags)
                    assert ns_name(kind.child_link, task.pid) == of_target


@pytest.mark.behaviour("SNS-06")
def test_namespace_descriptor_refuses_other_flags(joiner: Task, target: Idle) -> None:
    before = ns_names(joiner.pid)
    for kind in configured_types():
        others = [bit for bit in (*NS, CLONE_VM, 1 << 31) if bit != kind]
        wrong = [-1, *others, *(kind | bit for bit in others)]
        with owned(open_ns(kind, target.pid)) as fd:
            assert joiner.call(refused, joiner.give(fd), wrong) == dict.fromkeys(wrong, EINVAL)
    assert ns_names(joiner.pid) == before
