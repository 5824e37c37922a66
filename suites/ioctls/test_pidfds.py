# SPDX-License-Identifier: GPL-2.0-only
"""PIDFD_GET_*_NAMESPACE: the namespaces of the task behind a pidfd (fs/pidfs.c)."""

import os
import threading
from collections.abc import Callable
from errno import EACCES, EINVAL, ESRCH, errorcode

import pytest
from nslib import (
    NS,
    SOMEBODY,
    Cap,
    PidfdGet,
    Task,
    errno_of,
    has_feature,
    inode_behind,
    inode_of,
    ioctl,
    ns_link,
    open_of_pidfd,
    owned,
    prctl,
    scaled,
    type_of,
    unshare,
)

needs_ioctls = pytest.mark.needs("pidfd_ioctls")

PR_SET_DUMPABLE = 4  # include/uapi/linux/prctl.h
PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h


def errnos(pidfd: int, requests: list[PidfdGet], argument: int = 0) -> set[int]:
    """With which errnos the ioctls of a pidfd fail, 0 for success; nothing stays open."""

    def open_and_close(request: PidfdGet) -> None:
        os.close(ioctl(pidfd, request, argument))

    return {errno_of(open_and_close, request) for request in requests}


@needs_ioctls
@pytest.mark.behaviour("IOC-18")
def test_pidfd_leads_to_the_namespaces_of_the_links(
    stranger: Task, pidfd_requests: list[PidfdGet]
) -> None:
    if PidfdGet.TIME in pidfd_requests:
        stranger.call(unshare, NS.TIME)
        assert inode_of(NS.TIME, stranger.pid) != inode_of("time_for_children", stranger.pid)
    for request in pidfd_requests:
        linked = inode_of(request.name.lower(), stranger.pid)
        assert inode_behind(open_of_pidfd(stranger.pidfd, request)) == linked, request.name


@needs_ioctls
@pytest.mark.behaviour("IOC-19")
def test_argument_must_be_zero(stranger: Task, pidfd_requests: list[PidfdGet]) -> None:
    for argument in (1, 2**32, 2**63):
        assert errnos(stranger.pidfd, pidfd_requests, argument) == {EINVAL}
    assert errnos(stranger.pidfd, pidfd_requests) == {0}


@needs_ioctls
@pytest.mark.behaviour("IOC-19")
def test_ended_task_has_no_namespaces(
    stranger: Task, pidfd_requests: list[PidfdGet], observe: Callable[[str, object], None]
) -> None:
    stranger.zombie()
    assert errnos(stranger.pidfd, pidfd_requests) == {ESRCH}
    assert errnos(stranger.pidfd, pidfd_requests, 1) == {EINVAL}
    with owned(os.dup(stranger.pidfd)) as pidfd:
        stranger.reap()
        assert errnos(pidfd, pidfd_requests) == {ESRCH}
        [with_argument] = errnos(pidfd, pidfd_requests, 1)
    observe("reaped_with_argument", errorcode[with_argument])
    # Linux 6.12 looks at the argument before it looks for the task.
    assert with_argument == ESRCH or (with_argument == EINVAL and not has_feature("nsid"))


@needs_ioctls
@pytest.mark.behaviour("IOC-20")
def test_pidfd_alone_gives_no_access(pidfd: int, pidfd_requests: list[PidfdGet]) -> None:
    with Task(uid=SOMEBODY, caps=Cap.NONE) as task:
        assert task.call(errnos, task.give(pidfd), pidfd_requests) == {EACCES}
        assert task.call(errnos, task.give(task.pidfd), pidfd_requests) == {0}


@needs_ioctls
@pytest.mark.behaviour("IOC-20")
def test_right_to_trace_gives_access(pidfd: int, pidfd_requests: list[PidfdGet]) -> None:
    with Task(uid=SOMEBODY, caps=Cap.SYS_PTRACE) as task:
        assert task.call(errnos, task.give(pidfd), pidfd_requests) == {0}


@needs_ioctls
@pytest.mark.behaviour("IOC-20")
def test_undumpable_task_gives_no_access(pidfd_requests: list[PidfdGet]) -> None:
    with Task(uid=SOMEBODY, caps=Cap.NONE) as task, Task(uid=SOMEBODY, caps=Cap.NONE) as other:
        there = task.give(other.pidfd)
        assert task.call(errnos, there, pidfd_requests) == {0}
        other.call(prctl, PR_SET_DUMPABLE, 0)
        assert task.call(errnos, there, pidfd_requests) == {EACCES}
        assert errnos(other.pidfd, pidfd_requests) == {0}


@pytest.mark.behaviour("IOC-20")
def test_links_give_no_access_either() -> None:
    with Task(uid=SOMEBODY, caps=Cap.NONE) as task:
        for name in ("mnt", "user", "pid"):
            link = str(ns_link(name, os.getpid()))
            assert errno_of(task.call, os.open, link, os.O_RDONLY) == EACCES
            assert errno_of(task.call, os.readlink, link) == EACCES


@pytest.mark.needs("pid_ns", "pidfd_ioctls")
@pytest.mark.behaviour("IOC-21")
def test_pid_namespace_of_children_is_there_before_them() -> None:
    with Task() as task:
        before = inode_behind(open_of_pidfd(task.pidfd, PidfdGet.PID_FOR_CHILDREN))
        assert before == inode_of(NS.PID)
        task.call(unshare, NS.PID)
        with owned(open_of_pidfd(task.pidfd, PidfdGet.PID_FOR_CHILDREN)) as fd:
            assert type_of(fd) == NS.PID
            assert os.fstat(fd).st_ino != before
            with task.spawn() as child:
                assert inode_of(NS.PID, child.pid) == os.fstat(fd).st_ino
                assert inode_of("pid_for_children", task.pid) == os.fstat(fd).st_ino
        assert inode_behind(open_of_pidfd(task.pidfd, PidfdGet.PID)) == before


def in_thread(action: Callable[[int], None], prepare: Callable[[], None]) -> None:
    """Run `action` on the pidfd of a new thread, after that thread has run `prepare`."""
    ready, done = threading.Event(), threading.Event()

    def run() -> None:
        prepare()
        ready.set()
        done.wait(scaled(20))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(scaled(20))
        with owned(os.pidfd_open(thread.native_id or 0, PIDFD_THREAD)) as pidfd:
            action(pidfd)
    finally:
        done.set()
        thread.join()


@pytest.mark.needs("uts_ns", "pidfd_ioctls")
@pytest.mark.behaviour("IOC-22")
def test_pidfd_of_a_thread_leads_to_its_namespaces(pidfd: int) -> None:
    def look(of_thread: int) -> None:
        ids = [inode_behind(open_of_pidfd(fd, PidfdGet.UTS)) for fd in (of_thread, pidfd)]
        assert ids == [own["thread"], inode_of(NS.UTS)]
        assert ids[0] != ids[1]
        for shared in (PidfdGet.MNT, PidfdGet.USER, PidfdGet.PID):
            ids = [inode_behind(open_of_pidfd(fd, shared)) for fd in (of_thread, pidfd)]
            assert ids[0] == ids[1], shared.name

    def prepare() -> None:
        unshare(NS.UTS)
        own["thread"] = inode_of(NS.UTS)

    own: dict[str, int] = {}
    in_thread(look, prepare)
