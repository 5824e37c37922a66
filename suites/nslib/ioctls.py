# SPDX-License-Identifier: GPL-2.0-only
"""The ioctls of nsfs files, pidfds and sockets that concern namespaces.

Numbers: include/uapi/linux/nsfs.h, include/uapi/linux/pidfd.h, include/uapi/linux/sockios.h.
"""

import ctypes
from enum import IntEnum

from .syscalls import ioctl

_NSIO, _PIDFSIO = 0xB7, 0xFF


def _io(magic: int, number: int) -> int:
    return magic << 8 | number


def _ior(magic: int, number: int, size: int) -> int:
    return 2 << 30 | size << 16 | magic << 8 | number


NS_GET_USERNS = _io(_NSIO, 1)
NS_GET_PARENT = _io(_NSIO, 2)
NS_GET_NSTYPE = _io(_NSIO, 3)
NS_GET_OWNER_UID = _io(_NSIO, 4)
NS_GET_MNTNS_ID = _ior(_NSIO, 5, 8)
NS_GET_PID_FROM_PIDNS = _ior(_NSIO, 6, 4)
NS_GET_TGID_FROM_PIDNS = _ior(_NSIO, 7, 4)
NS_GET_PID_IN_PIDNS = _ior(_NSIO, 8, 4)
NS_GET_TGID_IN_PIDNS = _ior(_NSIO, 9, 4)
NS_MNT_GET_INFO = _ior(_NSIO, 10, 16)
NS_MNT_GET_NEXT = _ior(_NSIO, 11, 16)
NS_MNT_GET_PREV = _ior(_NSIO, 12, 16)
NS_GET_ID = _ior(_NSIO, 13, 8)

SIOCGSKNS = 0x894C


class PidfdGet(IntEnum):
    """PIDFD_GET_*_NAMESPACE: a namespace of the task behind a pidfd, by its link in capitals."""

    CGROUP = _io(_PIDFSIO, 1)
    IPC = _io(_PIDFSIO, 2)
    MNT = _io(_PIDFSIO, 3)
    NET = _io(_PIDFSIO, 4)
    PID = _io(_PIDFSIO, 5)
    PID_FOR_CHILDREN = _io(_PIDFSIO, 6)
    TIME = _io(_PIDFSIO, 7)
    TIME_FOR_CHILDREN = _io(_PIDFSIO, 8)
    USER = _io(_PIDFSIO, 9)
    UTS = _io(_PIDFSIO, 10)


def ioctl_u64(fd: int, request: int) -> int:
    """Result of an ioctl that stores one 64-bit number, such as NS_GET_ID."""
    value = ctypes.c_uint64()
    ioctl(fd, request, ctypes.addressof(value))
    return value.value


def open_owner(fd: int) -> int:
    """A new fd of the user namespace that owns the namespace `fd` (NS_GET_USERNS)."""
    return ioctl(fd, NS_GET_USERNS)


def open_parent(fd: int) -> int:
    """A new fd of the parent of a pid or user namespace `fd` (NS_GET_PARENT)."""
    return ioctl(fd, NS_GET_PARENT)


def open_of_pidfd(pidfd: int, which: PidfdGet) -> int:
    """A new nsfs fd of a namespace of the task behind `pidfd`. Linux 6.11."""
    return ioctl(pidfd, which)


def open_of_socket(sock: int) -> int:
    """A new nsfs fd of the network namespace in which a socket was made (SIOCGSKNS)."""
    return ioctl(sock, SIOCGSKNS)
