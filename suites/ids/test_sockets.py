# SPDX-License-Identifier: GPL-2.0-only
"""What a socket tells of the network namespace that it was made in."""

import socket

import pytest
from nslib import INITIAL_IDS, NS, Task, id_behind, ns_id, open_of_socket, owned

pytestmark = pytest.mark.needs("net_ns")

SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
SOCKETS = (
    (socket.AF_UNIX, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_NETLINK, socket.SOCK_RAW),
)


def cookies() -> list[int]:
    """The network namespace cookies of new sockets."""
    found = []
    for family, kind in SOCKETS:
        with socket.socket(family, kind) as sock:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
            found.append(int.from_bytes(raw, "little"))
    return found


def new_socket(family: int, kind: int) -> int:
    """An fd of a new socket."""
    return socket.socket(family, kind).detach()


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("NSID-15")
def test_cookie_is_the_id_of_the_network_namespace() -> None:
    assert cookies() == [ns_id(NS.NET)] * len(SOCKETS)
    with Task(NS.NET) as task:
        assert task.call(cookies) == [ns_id(NS.NET, task.pid)] * len(SOCKETS)


@pytest.mark.needs("fixed_ids")
@pytest.mark.behaviour("NSID-15")
def test_cookie_of_the_initial_network_namespace_is_fixed() -> None:
    assert cookies() == [INITIAL_IDS[NS.NET]] * len(SOCKETS)


@pytest.mark.needs("fixed_ids")
@pytest.mark.behaviour("NSID-12")
def test_socket_leads_to_the_id_of_the_network_namespace() -> None:
    ids = []
    with Task(NS.NET) as task:
        linked = ns_id(NS.NET, task.pid)
        for family, kind in SOCKETS:
            with owned(task.fetch(new_socket, family, kind)) as sock:
                ids.append(id_behind(open_of_socket(sock)))
    assert ids == [linked] * len(SOCKETS)
