# SPDX-License-Identifier: GPL-2.0-only
"""The routes to a namespace, all of which lead to the same id."""

import os
import re
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
    id_behind,
    id_of,
    mount,
    ns_id,
    ns_link,
    open_handle,
    open_id,
    open_of_pidfd,
    open_owner,
    open_parent,
    opened,
    type_of,
    umount,
)


@contextmanager
def bind_mounted(fd: int) -> Iterator[str]:
    """The namespace `fd` bind-mounted for the block, at the path that is given."""
    with NamedTemporaryFile() as file:
        mount(f"/proc/self/fd/{fd}", file.name, flags=MS_BIND)
        try:
            yield file.name
        finally:
            umount(file.name)


@pytest.mark.needs("fixed_ids", "pidfd_ioctls")
@pytest.mark.behaviour("NSID-12")
def test_link_and_pidfd_lead_to_one_id(stranger: Task) -> None:
    for kind in configured_types():
        through_pidfd = id_behind(open_of_pidfd(stranger.pidfd, PidfdGet[kind.link.upper()]))
        assert through_pidfd == ns_id(kind, stranger.pid), kind.name


@pytest.mark.needs("fixed_ids", "id_handles")
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


@pytest.mark.needs("fixed_ids", "user_ns")
@pytest.mark.behaviour("NSID-12")
def test_owner_and_parent_are_known_by_their_ids(stranger: Task) -> None:
    user, own_user = ns_id(NS.USER, stranger.pid), ns_id(NS.USER)
    for kind in configured_types():
        with opened(ns_link(kind, stranger.pid)) as fd:
            owner = own_user if kind == NS.USER else user
            assert id_behind(open_owner(fd)) == owner, kind.name
            if kind in (NS.USER, NS.PID):
                assert id_behind(open_parent(fd)) == ns_id(kind), kind.name


@pytest.mark.needs("nsid", "nsfs_handles")
@pytest.mark.behaviour("NSID-17")
def test_handle_holds_id_type_and_inode_number(stranger: Task) -> None:
    links = {name for kind in configured_types() for name in (kind.link, kind.child_link)}
    for path in (ns_link(name, stranger.pid) for name in links):
        with opened(path) as fd:
            handle = encode_handle(fd).handle
            assert (handle.ns_id, handle.ns_type) == (id_of(fd), type_of(fd)), path
            assert handle.ns_inum == os.fstat(fd).st_ino, path
        assert re.findall(r"\d+", str(path.readlink())) == [str(handle.ns_inum)], path
