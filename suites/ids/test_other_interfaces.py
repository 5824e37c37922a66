# SPDX-License-Identifier: GPL-2.0-only
"""Ids where other interfaces show them: sockets, mounts, file handles."""

import ctypes
import os
import re
import socket
import struct

import pytest
from nslib import (
    INITIAL_IDS,
    LINKS,
    NS,
    NS_MNT_GET_INFO,
    Task,
    encode_handle,
    holding,
    id_of,
    ioctl,
    ns_id,
    ns_link,
    opened,
    syscall,
    type_of,
)

pytestmark = pytest.mark.needs("nsid")

SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
SOCKETS = (
    (socket.AF_UNIX, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_NETLINK, socket.SOCK_RAW),
)

MNT_NS_INFO = struct.Struct("<IIQ")  # size, nr_mounts, mnt_ns_id (include/uapi/linux/nsfs.h)

SYS_STATMOUNT, SYS_LISTMOUNT = 457, 458  # arch/*/syscall.tbl, the same on all but alpha
MNT_ID_REQ = struct.Struct("<IIQQQ")  # size, spare, mnt_id, param, mnt_ns_id
LSMT_ROOT = 2**64 - 1  # include/uapi/linux/mount.h, as all of this block
STATMOUNT_MNT_NS_ID = 0x40
OFFSET_OF_MNT_NS_ID = 112  # in struct statmount


def cookies() -> list[int]:
    """The network namespace cookies of new sockets."""
    found = []
    for family, kind in SOCKETS:
        with socket.socket(family, kind) as sock:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
            found.append(int.from_bytes(raw, "little"))
    return found


@pytest.mark.needs("net_ns")
@pytest.mark.behaviour("NSID-15")
def test_cookie_of_every_socket_is_the_id() -> None:
    assert cookies() == [ns_id(NS.NET)] * len(SOCKETS)
    with Task(NS.NET) as task:
        assert task.call(cookies) == [ns_id(NS.NET, task.pid)] * len(SOCKETS)


@pytest.mark.needs("fixed_ids")
@pytest.mark.behaviour("NSID-15")
def test_cookie_of_the_initial_network_namespace_is_fixed() -> None:
    assert set(cookies()) == {INITIAL_IDS[NS.NET]}


def id_by_info(fd: int) -> int:
    """Id of the mount namespace `fd` as NS_MNT_GET_INFO gives it."""
    info = ctypes.create_string_buffer(MNT_NS_INFO.size)
    ioctl(fd, NS_MNT_GET_INFO, ctypes.addressof(info))
    ns: int = MNT_NS_INFO.unpack(info.raw)[2]
    return ns


def id_by_statmount(mnt_ns: int) -> int:
    """Id of a mount namespace as statmount(2) gives it for a mount in the namespace `mnt_ns`."""
    mount = ctypes.c_uint64()
    listed = ctypes.create_string_buffer(MNT_ID_REQ.pack(MNT_ID_REQ.size, 0, LSMT_ROOT, 0, mnt_ns))
    assert syscall(SYS_LISTMOUNT, ctypes.addressof(listed), ctypes.addressof(mount), 1, 0) == 1
    wanted = (MNT_ID_REQ.size, 0, mount.value, STATMOUNT_MNT_NS_ID, mnt_ns)
    request = ctypes.create_string_buffer(MNT_ID_REQ.pack(*wanted))
    answer = (ctypes.c_uint64 * 64)()
    size = ctypes.sizeof(answer)
    syscall(SYS_STATMOUNT, ctypes.addressof(request), ctypes.addressof(answer), size, 0)
    return answer[OFFSET_OF_MNT_NS_ID // 8]


@pytest.mark.needs("mnt_ns_info")
@pytest.mark.behaviour("NSID-16")
def test_mount_namespace_and_its_mounts_tell_the_id() -> None:
    with holding(NS.MNT) as [new], opened(ns_link(NS.MNT)) as own:
        assert (id_by_info(new.fd), id_by_statmount(new.id)) == (new.id, new.id)
        assert (id_by_info(own), id_by_statmount(0)) == (id_of(own), id_of(own))


@pytest.mark.needs("nsfs_handles")
@pytest.mark.behaviour("NSID-17")
def test_handle_holds_id_type_and_inode_number(stranger: Task) -> None:
    for link in filter(LINKS.__contains__, os.listdir(f"/proc/{stranger.pid}/ns")):
        path = ns_link(link, stranger.pid)
        with opened(path) as fd:
            handle = encode_handle(fd).handle
            assert (handle.ns_id, handle.ns_type) == (id_of(fd), type_of(fd)), link
            assert handle.ns_inum == os.fstat(fd).st_ino, link
        assert re.findall(r"\d+", os.readlink(path)) == [str(handle.ns_inum)], link
