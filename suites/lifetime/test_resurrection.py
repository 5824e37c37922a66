# SPDX-License-Identifier: GPL-2.0-only
"""Namespaces that were invisible, pinned by something, and are referred to again."""

import fcntl
import os
import socket
import struct
from errno import EMFILE, ENOSPC

import pytest
from nslib import (
    NS,
    SIOCGSKNS,
    PidfdGet,
    Task,
    errno_of,
    id_of,
    ioctl,
    limit_namespaces,
    nest,
    no_more_fds,
    ns_id,
    open_id,
    open_of_pidfd,
    open_of_socket,
    open_owner,
    owned,
    setns,
    unshare,
    visible,
    wait_until,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")

IFF_TUN, IFF_NO_PI = 0x1, 0x1000  # include/uapi/linux/if_tun.h, as all of this block
TUNSETIFF = 0x400454CA
TUNGETDEVNETNS = 0x54E3


def new_socket() -> int:
    """An fd of a new socket."""
    return socket.socket().detach()


@pytest.mark.behaviour("ACT-35", "ACT-36")
def test_fd_from_a_socket_makes_a_namespace_and_its_owners_visible_each_time() -> None:
    with nest(NS.NET) as made, owned(made.task.fetch(new_socket)) as sock:
        made.task.reap()
        assert not visible(*made.ids)
        for _ in range(3):
            with owned(open_of_socket(sock)) as fd:
                assert id_of(fd) == made.owned[NS.NET]
                assert visible(*made.ids) == made.ids
            assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-35")
def test_fds_from_a_socket_count_once() -> None:
    with nest(NS.NET) as made, owned(made.task.fetch(new_socket)) as sock:
        made.task.reap()
        fds = [open_of_socket(sock) for _ in range(5)]
        while fds:
            assert visible(*made.ids) == made.ids
            os.close(fds.pop())
        assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-35")
def test_owner_of_a_resurrected_namespace_can_be_left_alone() -> None:
    with nest(NS.NET) as made, owned(made.task.fetch(new_socket)) as sock:
        made.task.reap()
        with owned(open_of_socket(sock)) as fd:
            owner = open_owner(fd)
        assert visible(*made.ids) == set(made.users)
        os.close(owner)
        assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-37")
def test_task_that_joined_keeps_a_resurrected_namespace() -> None:
    with nest(NS.NET) as made, owned(made.task.fetch(new_socket)) as sock, Task() as joiner:
        made.task.reap()
        with owned(open_of_socket(sock)) as fd:
            number = joiner.give(fd)
        joiner.call(setns, number, NS.NET)
        joiner.call(os.close, number)
        assert visible(*made.ids) == made.ids
        joiner.zombie()
        assert not visible(*made.ids)
        with owned(open_of_socket(sock)):
            assert visible(*made.ids) == made.ids
        assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-38")
def test_resurrection_of_one_of_two_shows_that_one_and_the_owner() -> None:
    with Task(NS.USER | NS.NET) as task:
        user, first = ns_id(NS.USER, task.pid), ns_id(NS.NET, task.pid)
        sockets = [task.fetch(new_socket)]
        task.call(unshare, NS.NET)
        second = ns_id(NS.NET, task.pid)
        sockets.append(task.fetch(new_socket))
        task.reap()
    assert not visible(user, first, second)
    of_first = open_of_socket(sockets[0])
    assert visible(user, first, second) == {user, first}
    of_second = open_of_socket(sockets[1])
    assert visible(user, first, second) == {user, first, second}
    os.close(of_first)
    assert visible(user, first, second) == {user, second}
    os.close(of_second)
    assert not visible(user, first, second)
    for sock in sockets:
        os.close(sock)


@pytest.mark.behaviour("ACT-39")
def test_failure_for_want_of_a_fd_makes_nothing_visible() -> None:
    with nest(NS.NET) as made, owned(made.task.fetch(new_socket)) as sock:
        made.task.reap()
        with no_more_fds():
            assert {errno_of(open_of_socket, sock) for _ in range(3)} == {EMFILE}
        assert not visible(*made.ids)
        with owned(open_of_socket(sock)):
            assert visible(*made.ids) == made.ids
        assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-39")
def test_failure_for_want_of_a_fd_leaves_no_reference() -> None:
    with Task(NS.USER) as creator:
        creator.call(limit_namespaces, NS.NET, 1)
        with creator.spawn(NS.NET) as task, owned(task.fetch(new_socket)) as sock:
            net = ns_id(NS.NET, task.pid)
            with no_more_fds():
                assert errno_of(open_of_socket, sock) == EMFILE
                assert errno_of(open_id, net) == EMFILE
                assert errno_of(open_of_pidfd, task.pidfd, PidfdGet.NET) == EMFILE
            assert errno_of(creator.call, unshare, NS.NET) == ENOSPC
        wait_until(lambda: errno_of(creator.call, unshare, NS.NET) == 0, "end of the namespace")


@pytest.mark.needs("tun")
@pytest.mark.behaviour("ACT-40")
@pytest.mark.parametrize(
    "request_", [TUNGETDEVNETNS, SIOCGSKNS], ids=["TUNGETDEVNETNS", "SIOCGSKNS"]
)
def test_fd_from_a_tun_device_makes_its_namespace_and_the_owners_visible(request_: int) -> None:
    with nest(NS.NET) as made, owned(made.task.fetch(new_tun)) as tun:
        made.task.reap()
        assert not visible(*made.ids)
        with owned(ioctl(tun, request_)) as fd:
            assert id_of(fd) == made.owned[NS.NET]
            assert visible(*made.ids) == made.ids
        assert not visible(*made.ids)


def new_tun() -> int:
    """An fd of a new tun device in the caller's network namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"", IFF_TUN | IFF_NO_PI))
    return fd
