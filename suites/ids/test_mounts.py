# SPDX-License-Identifier: GPL-2.0-only
"""Ids of mount namespaces where mounts are described: NS_MNT_GET_INFO, statmount(2)."""

import ctypes
import struct

import pytest
from nslib import NS, NS_MNT_GET_INFO, holding, id_of, ioctl, ns_link, opened, syscall

pytestmark = pytest.mark.needs("nsid", "mnt_ns_info")

MNT_NS_INFO = struct.Struct("<IIQ")  # size, nr_mounts, mnt_ns_id (include/uapi/linux/nsfs.h)

SYS_STATMOUNT, SYS_LISTMOUNT = 457, 458  # arch/*/syscall.tbl, the same on all but alpha
MNT_ID_REQ = struct.Struct("<IIQQQ")  # size, spare, mnt_id, param, mnt_ns_id
LSMT_ROOT = 2**64 - 1  # include/uapi/linux/mount.h, as all of this block
STATMOUNT_MNT_NS_ID = 0x40
OFFSET_OF_MNT_NS_ID = 112  # in struct statmount


def id_by_info(fd: int) -> int:
    """Id of the mount namespace `fd` as NS_MNT_GET_INFO gives it."""
    info = ctypes.create_string_buffer(MNT_NS_INFO.size)
    ioctl(fd, NS_MNT_GET_INFO, ctypes.addressof(info))
    ns: int = MNT_NS_INFO.unpack(info.raw)[2]
    return ns


def id_by_statmount(mnt_ns: int) -> int:
    """Id of a mount namespace as statmount(2) gives it for a mount that is listed for `mnt_ns`,
    0 being the caller's own."""
    mount = ctypes.c_uint64()
    listed = ctypes.create_string_buffer(MNT_ID_REQ.pack(MNT_ID_REQ.size, 0, LSMT_ROOT, 0, mnt_ns))
    assert syscall(SYS_LISTMOUNT, ctypes.addressof(listed), ctypes.addressof(mount), 1, 0) == 1
    wanted = (MNT_ID_REQ.size, 0, mount.value, STATMOUNT_MNT_NS_ID, mnt_ns)
    request = ctypes.create_string_buffer(MNT_ID_REQ.pack(*wanted))
    answer = (ctypes.c_uint64 * 64)()
    size = ctypes.sizeof(answer)
    syscall(SYS_STATMOUNT, ctypes.addressof(request), ctypes.addressof(answer), size, 0)
    return answer[OFFSET_OF_MNT_NS_ID // 8]


@pytest.mark.behaviour("NSID-16")
def test_mount_namespace_tells_its_id() -> None:
    with holding(NS.MNT) as [new], opened(ns_link(NS.MNT)) as own:
        assert [id_by_info(fd) for fd in (new.fd, own)] == [new.id, id_of(own)]


@pytest.mark.behaviour("NSID-16")
def test_mount_tells_the_id_of_its_namespace() -> None:
    with holding(NS.MNT) as [new], opened(ns_link(NS.MNT)) as own:
        assert [id_by_statmount(ns) for ns in (new.id, 0)] == [new.id, id_of(own)]
