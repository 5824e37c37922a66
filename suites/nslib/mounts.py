# SPDX-License-Identifier: GPL-2.0-only
"""Mount namespaces and what is mounted in them."""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from .ids import owned
from .ioctls import NS_MNT_GET_INFO
from .syscalls import MS_BIND, ioctl, listmount, mount, umount

LSMT_ROOT = 2**64 - 1
"""In place of a mount's id: the root of the mount namespace (include/uapi/linux/mount.h)."""

_MNT_NS_INFO = struct.Struct("<IIQ")  # struct mnt_ns_info (include/uapi/linux/nsfs.h)
_MNT_ID_REQ = struct.Struct("<IIQQQ")  # struct mnt_id_req (include/uapi/linux/mount.h)


class MntNsInfo(NamedTuple):
    """struct mnt_ns_info: what NS_MNT_GET_INFO, NS_MNT_GET_NEXT and NS_MNT_GET_PREV write."""

    size: int
    nr_mounts: int
    mnt_ns_id: int


def unpack_mnt_ns_info(raw: bytes) -> MntNsInfo:
    """The structure at the start of `raw`."""
    return MntNsInfo(*_MNT_NS_INFO.unpack_from(raw))


def mnt_ns_info(fd: int) -> MntNsInfo:
    """What there is to know of the mount namespace `fd` (NS_MNT_GET_INFO). Linux 6.12."""
    room = ctypes.create_string_buffer(_MNT_NS_INFO.size)
    ioctl(fd, NS_MNT_GET_INFO, ctypes.addressof(room))
    return unpack_mnt_ns_info(room.raw)


class Neighbour(NamedTuple):
    """The mount namespace beside another one: a new fd of it, and its description."""

    fd: int
    info: MntNsInfo


def open_neighbour(fd: int, request: int) -> Neighbour:
    """The next mount namespace after `fd`, with NS_MNT_GET_PREV as `request` the one before.

    ENOENT if there is none, EPERM for who may not see all namespaces. Linux 6.12.
    """
    room = ctypes.create_string_buffer(_MNT_NS_INFO.size)
    new = ioctl(fd, request, ctypes.addressof(room))
    return Neighbour(new, unpack_mnt_ns_info(room.raw))


def walk_mnt_ns(fd: int, request: int) -> Iterator[int]:
    """Ids of the mount namespaces beyond `fd` in the direction of `request`, up to the last."""
    try:
        neighbour = open_neighbour(fd, request)
    except FileNotFoundError:
        return
    with owned(neighbour.fd):
        yield neighbour.info.mnt_ns_id
        yield from walk_mnt_ns(neighbour.fd, request)


def mount_ids(mnt_ns: int = 0) -> list[int]:
    """Ids of the mounts in the mount namespace with the id `mnt_ns`, or in the caller's.

    At most 4096 of them (listmount(2)). Linux 6.10 for a namespace by its id.
    """
    ids = (ctypes.c_uint64 * 4096)()
    packed = _MNT_ID_REQ.pack(_MNT_ID_REQ.size, 0, LSMT_ROOT, 0, mnt_ns)
    request = ctypes.create_string_buffer(packed)
    return ids[: listmount(ctypes.addressof(request), ctypes.addressof(ids), len(ids))]


@contextmanager
def bind_mounted(fd: int) -> Iterator[str]:
    """The file `fd` bind-mounted for the block, at the path that is given."""
    with NamedTemporaryFile() as file:
        mount(f"/proc/self/fd/{fd}", file.name, flags=MS_BIND)
        try:
            yield file.name
        finally:
            umount(file.name)
