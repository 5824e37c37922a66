# SPDX-License-Identifier: GPL-2.0-only
"""SIOCGSKNS: from a socket to the network namespace that it was made in."""

import os
import socket
from collections.abc import Callable
from errno import EAFNOSUPPORT, EMFILE, ENOTTY, EPERM, EPROTONOSUPPORT, ESTALE

import pytest
from nslib import (
    NS,
    SOMEBODY,
    Cap,
    Task,
    errno_of,
    inode_behind,
    inode_of,
    list_all,
    no_more_fds,
    ns_id,
    open_id,
    open_ns,
    open_of_socket,
    owned,
    pinned,
    set_effective_caps,
    setns,
)

pytestmark = pytest.mark.needs("net_ns")

KINDS = {
    "unix_stream": (socket.AF_UNIX, socket.SOCK_STREAM),
    "unix_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM),
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM),
    "netlink": (socket.AF_NETLINK, socket.SOCK_RAW),
    "packet": (socket.AF_PACKET, socket.SOCK_RAW),
}
OPTIONAL = {"tcp6", "udp6", "packet", "raw"}


def new_socket(family: int, kind: int, protocol: int = 0) -> int:
    """An fd of a new socket."""
    return socket.socket(family, kind, protocol).detach()


def errno_of_opening(sock: int) -> int:
    """With which errno SIOCGSKNS fails, 0 if it succeeds; nothing stays open."""
    return errno_of(lambda: os.close(open_of_socket(sock)))


@pytest.mark.behaviour("IOC-24")
def test_socket_leads_to_where_it_was_made(observe: Callable[[str, object], None]) -> None:
    with Task(NS.NET) as task, owned(open_ns(NS.NET)) as own:
        theirs = inode_of(NS.NET, task.pid)
        socks = {}
        for name, arguments in KINDS.items():
            try:
                socks[name] = task.fetch(new_socket, *arguments)
            except OSError as error:
                if name not in OPTIONAL or error.errno not in (EAFNOSUPPORT, EPROTONOSUPPORT):
                    raise
        observe("kinds_of_sockets", list(socks))
        with_creator = {name: inode_behind(open_of_socket(sock)) for name, sock in socks.items()}
        task.call(setns, task.give(own), NS.NET)
        without = {name: inode_behind(open_of_socket(sock)) for name, sock in socks.items()}
        for sock in socks.values():
            os.close(sock)
    assert with_creator == without == dict.fromkeys(socks, theirs)


@pytest.mark.behaviour("IOC-24")
def test_caller_may_be_elsewhere() -> None:
    with Task(NS.NET) as task, owned(new_socket(*KINDS["udp"])) as sock:
        assert task.call(inode_behind, task.call(open_of_socket, task.give(sock))) == inode_of(
            NS.NET
        )


@pytest.mark.behaviour("IOC-25")
def test_other_files_lead_nowhere() -> None:
    pipe = os.pipe()
    fds = [
        *pipe,
        os.open("/dev/null", os.O_RDWR),
        os.open("/proc/self/status", os.O_RDONLY),
        os.memfd_create(""),
        os.pidfd_open(os.getpid()),
        open_ns(NS.NET),
    ]
    found = {os.readlink(f"/proc/self/fd/{fd}"): errno_of_opening(fd) for fd in fds}
    for fd in fds:
        os.close(fd)
    assert found == dict.fromkeys(found, ENOTTY)


@pytest.mark.behaviour("IOC-26")
def test_only_net_admin_gets_the_namespace() -> None:
    with owned(new_socket(*KINDS["udp"])) as sock, Task(uid=SOMEBODY, caps=Cap.NET_ADMIN) as task:
        there = task.give(sock)
        assert task.call(errno_of_opening, there) == 0
        task.call(set_effective_caps, Cap.NONE)
        assert task.call(errno_of_opening, there) == EPERM
        assert task.call(errno_of_opening, task.call(new_socket, *KINDS["udp"])) == EPERM
    with owned(new_socket(*KINDS["udp"])) as sock, Task() as root:
        root.call(set_effective_caps, Cap.ALL & ~Cap.NET_ADMIN)
        assert root.call(errno_of_opening, root.give(sock)) == EPERM


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("IOC-26")
def test_capability_counts_over_the_owner_of_the_namespace() -> None:
    with Task(NS.USER | NS.NET) as task, owned(new_socket(*KINDS["udp"])) as ours:
        theirs = task.call(new_socket, *KINDS["udp"])
        assert task.call(errno_of_opening, theirs) == 0
        assert task.call(errno_of_opening, task.give(ours)) == EPERM


@pytest.mark.needs("listns", "id_handles")
@pytest.mark.behaviour("IOC-26")
def test_refusal_revives_nothing() -> None:
    with Task(NS.USER | NS.NET) as maker, pinned(maker, NS.NET) as sock:
        ids = ns_id(NS.NET, maker.pid), ns_id(NS.USER, maker.pid)
        maker.reap()
        with Task(uid=SOMEBODY, caps=Cap.NONE) as task:
            assert task.call(errno_of_opening, task.give(sock)) == EPERM
        with no_more_fds():
            assert errno_of_opening(sock) == EMFILE
        assert not set(ids) & set(list_all())
        assert [errno_of(open_id, one) for one in ids] == [ESTALE, ESTALE]
        with owned(open_of_socket(sock)):
            assert set(ids) <= set(list_all())
        assert not set(ids) & set(list_all())
