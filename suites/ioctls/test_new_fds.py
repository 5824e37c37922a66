# SPDX-License-Identifier: GPL-2.0-only
"""The fds of namespaces that ioctls return: for reading, and not for another program."""

import os
import socket
from fcntl import F_GETFD, F_GETFL, FD_CLOEXEC, fcntl

import pytest
from nslib import (
    NS,
    NS_MNT_GET_PREV,
    PidfdGet,
    Task,
    hold_fd,
    ns_link,
    open_neighbour,
    open_of_pidfd,
    open_of_socket,
    open_owner,
    open_parent,
    opened,
    owned,
)


def is_well_made(fd: int) -> bool:
    """Whether a new fd, which is closed, is read-only and closed by exec."""
    with owned(fd):
        flags = fcntl(fd, F_GETFL) & (os.O_ACCMODE | os.O_PATH | os.O_NONBLOCK)
        return fcntl(fd, F_GETFD) == FD_CLOEXEC and flags == os.O_RDONLY


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("IOC-07")
def test_fd_of_owner_and_parent() -> None:
    with Task(NS.USER) as task, opened(ns_link(NS.USER, task.pid)) as fd:
        assert is_well_made(open_owner(fd))
        assert is_well_made(open_parent(fd))


@pytest.mark.needs("net_ns")
@pytest.mark.behaviour("IOC-07")
def test_fd_of_a_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert is_well_made(open_of_socket(sock.fileno()))


@pytest.mark.needs("pidfd_ioctls")
@pytest.mark.behaviour("IOC-07")
def test_fds_of_a_pidfd(pidfd: int, pidfd_requests: list[PidfdGet]) -> None:
    for request in pidfd_requests:
        assert is_well_made(open_of_pidfd(pidfd, request)), request.name


@pytest.mark.needs("mnt_ns_info")
@pytest.mark.behaviour("IOC-07")
def test_fd_of_the_next_mount_namespace() -> None:
    with owned(hold_fd(NS.MNT)) as fd, owned(hold_fd(NS.MNT)) as other:
        for start in (fd, other):
            assert is_well_made(open_neighbour(start, NS_MNT_GET_PREV).fd)
