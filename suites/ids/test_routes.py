# SPDX-License-Identifier: GPL-2.0-only
"""The routes to a namespace, all of which lead to the same id."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile

import pytest
from nslib import (
    MS_BIND,
    NS,
    PidfdGet,
    Task,
    configured_types,
    encode_handle,
    id_of,
    mount,
    ns_id,
    ns_link,
    open_handle,
    open_id,
    open_of_pidfd,
    open_of_socket,
    open_owner,
    open_parent,
    opened,
    owned,
    umount,
)

pytestmark = pytest.mark.needs("fixed_ids")

SOCKETS = (
    (socket.AF_UNIX, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_NETLINK, socket.SOCK_RAW),
)


def id_behind(fd: int) -> int:
    """Id of the namespace of a new `fd`, which is closed."""
    with owned(fd):
        return id_of(fd)


@contextmanager
def bind_mounted(fd: int) -> Iterator[str]:
    """The namespace `fd` bind-mounted for the block, at the path that is given."""
    with NamedTemporaryFile() as file:
        mount(f"/proc/self/fd/{fd}", file.name, flags=MS_BIND)
        try:
            yield file.name
        finally:
            umount(file.name)


def new_socket(family: int, kind: int) -> int:
    """An fd of a new socket."""
    return socket.socket(family, kind).detach()


@pytest.mark.needs("pidfd_ioctls")
@pytest.mark.behaviour("NSID-12")
def test_link_and_pidfd_lead_to_one_id(stranger: Task) -> None:
    links = {kind: ns_id(kind, stranger.pid) for kind in configured_types()}
    for kind, linked in links.items():
        which = PidfdGet[kind.link.upper()]
        assert id_behind(open_of_pidfd(stranger.pidfd, which)) == linked, kind.name


@pytest.mark.needs("id_handles")
@pytest.mark.behaviour("NSID-12")
def test_handles_and_bind_mount_lead_to_one_id(stranger: Task) -> None:
    for kind in configured_types():
        with opened(ns_link(kind, stranger.pid)) as fd, bind_mounted(fd) as path:
            linked = id_of(fd)
            routes = [
                open_handle(encode_handle(fd).handle),
                open_id(linked),
                os.open(path, os.O_RDONLY),
            ]
            assert [id_behind(route) for route in routes] == [linked] * 3, kind.name


@pytest.mark.needs("user_ns")
@pytest.mark.behaviour("NSID-12")
def test_owner_and_parent_are_known_by_their_ids(stranger: Task) -> None:
    user, own_user = ns_id(NS.USER, stranger.pid), ns_id(NS.USER)
    for kind in configured_types():
        with opened(ns_link(kind, stranger.pid)) as fd:
            owner = own_user if kind == NS.USER else user
            assert id_behind(open_owner(fd)) == owner, kind.name
            if kind in (NS.USER, NS.PID):
                assert id_behind(open_parent(fd)) == ns_id(kind), kind.name


@pytest.mark.needs("net_ns")
@pytest.mark.behaviour("NSID-12")
def test_every_socket_leads_to_the_id_of_its_network_namespace() -> None:
    ids = []
    with Task(NS.NET) as task:
        linked = ns_id(NS.NET, task.pid)
        for family, kind in SOCKETS:
            with owned(task.fetch(new_socket, family, kind)) as sock:
                ids.append(id_behind(open_of_socket(sock)))
    assert ids == [linked] * len(SOCKETS)
