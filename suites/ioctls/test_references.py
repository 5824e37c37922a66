# SPDX-License-Identifier: GPL-2.0-only
"""No ioctl leaves a reference to a namespace behind, whether it succeeds or fails.

A user namespace with room for one more namespace tells: each counts until its memory is freed.
"""

import os
import socket
from collections.abc import Callable
from errno import EACCES, EFAULT, EINVAL, EMFILE, ENOSPC, EPERM

import pytest
from nslib import (
    NS,
    NS_MNT_GET_NEXT,
    NS_MNT_GET_PREV,
    SOMEBODY,
    UNMAPPED_ADDRESS,
    Cap,
    PidfdGet,
    Task,
    errno_of,
    ioctl,
    limit_namespaces,
    no_more_fds,
    open_neighbour,
    open_ns,
    open_of_pidfd,
    open_of_socket,
    open_owner,
    open_parent,
    owned,
    setns,
    unshare,
    wait_until,
)


def errno_of_opening(function: Callable[[int], int], fd: int) -> int:
    """With which errno a function that returns an fd fails, 0 if not; nothing stays open."""
    return errno_of(lambda: os.close(function(fd)))


def errno_without_a_free_fd(function: Callable[[int], int], fd: int) -> int:
    """The same, with no room for an fd."""
    with no_more_fds():
        return errno_of(function, fd)


def pidfd_uts(pidfd: int) -> int:
    """An fd of the uts namespace of the task behind a pidfd."""
    return open_of_pidfd(pidfd, PidfdGet.UTS)


def next_mount_ns(fd: int) -> int:
    """An fd of the mount namespace after another one."""
    return open_neighbour(fd, NS_MNT_GET_NEXT).fd


def socket_of_new_net() -> int:
    """An fd of a socket in a network namespace with nothing else in it."""
    with owned(open_ns(NS.NET)) as own:
        unshare(NS.NET)
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
        finally:
            setns(own, NS.NET)


def enter_new_user_ns() -> None:
    """Have a new user namespace, and a uts namespace that it owns."""
    unshare(NS.USER | NS.UTS)


def has_room_for(task: Task, kind: NS) -> bool:
    """Whether the task can enter one more namespace of a type, which stays."""
    return errno_of(task.call, unshare, kind) == 0


@pytest.mark.needs("user_ns", "uts_ns")
@pytest.mark.behaviour("IOC-03", "IOC-04")
def test_asking_for_owner_and_parent_leaves_no_reference() -> None:
    with Task(NS.USER) as cramped:
        cramped.call(limit_namespaces, NS.USER, 1)
        with cramped.spawn() as task, Task(NS.USER) as beside:
            task.call(enter_new_user_ns)
            assert errno_of(cramped.call, unshare, NS.USER) == ENOSPC
            with owned(open_ns(NS.UTS, task.pid)) as uts, owned(open_ns(NS.USER, task.pid)) as user:
                for call, fd in ((open_owner, uts), (open_owner, user), (open_parent, user)):
                    assert errno_of_opening(call, fd) == 0
                    assert errno_without_a_free_fd(call, fd) == EMFILE
                    assert beside.call(errno_of_opening, call, beside.give(fd)) == EPERM
        wait_until(lambda: has_room_for(cramped, NS.USER), "end of the user namespace")


@pytest.mark.needs("user_ns", "uts_ns", "pidfd_ioctls")
@pytest.mark.behaviour("IOC-18", "IOC-20")
def test_asking_a_pidfd_leaves_no_reference() -> None:
    with Task(NS.USER) as cramped, Task(uid=SOMEBODY, caps=Cap.NONE) as stranger:
        cramped.call(limit_namespaces, NS.UTS, 1)
        with cramped.spawn(NS.UTS) as task:
            assert errno_of(cramped.call, unshare, NS.UTS) == ENOSPC
            assert errno_of_opening(pidfd_uts, task.pidfd) == 0
            assert errno_without_a_free_fd(pidfd_uts, task.pidfd) == EMFILE
            assert errno_of(ioctl, task.pidfd, PidfdGet.UTS, 1) == EINVAL
            there = stranger.give(task.pidfd)
            assert stranger.call(errno_of_opening, pidfd_uts, there) == EACCES
        assert has_room_for(cramped, NS.UTS)


@pytest.mark.needs("user_ns", "mnt_ns_info")
@pytest.mark.behaviour("IOC-16", "IOC-17")
def test_asking_for_a_neighbour_leaves_no_reference() -> None:
    with Task(NS.USER) as cramped:
        cramped.call(limit_namespaces, NS.MNT, 1)
        with (
            cramped.spawn(NS.MNT) as task,
            owned(open_ns(NS.MNT, task.pid)) as fd,
            owned(open_neighbour(fd, NS_MNT_GET_PREV).fd) as before,
        ):
            assert errno_of(cramped.call, unshare, NS.MNT) == ENOSPC
            assert errno_of_opening(next_mount_ns, before) == 0
            assert errno_without_a_free_fd(next_mount_ns, before) == EMFILE
            assert errno_of(ioctl, before, NS_MNT_GET_NEXT, UNMAPPED_ADDRESS) == EFAULT
        assert has_room_for(cramped, NS.MNT)


@pytest.mark.needs("user_ns", "net_ns")
@pytest.mark.behaviour("IOC-24", "IOC-26")
def test_asking_a_socket_leaves_no_reference() -> None:
    with Task(NS.USER | NS.NET) as cramped:
        cramped.call(limit_namespaces, NS.NET, 2)
        with (
            owned(cramped.fetch(socket_of_new_net)) as sock,
            Task(uid=SOMEBODY, caps=Cap.NONE) as stranger,
        ):
            assert errno_of(cramped.call, socket_of_new_net) == ENOSPC
            assert errno_of_opening(open_of_socket, sock) == 0
            assert errno_without_a_free_fd(open_of_socket, sock) == EMFILE
            assert stranger.call(errno_of_opening, open_of_socket, stranger.give(sock)) == EPERM
        wait_until(lambda: has_room_for(cramped, NS.NET), "end of the network namespace")
