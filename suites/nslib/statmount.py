# SPDX-License-Identifier: GPL-2.0-only
"""statmount(2): what the kernel tells of a mount, in any mount namespace. Linux 6.8."""

import ctypes
import struct

from .syscalls import syscall

SYS_STATMOUNT = 457  # arch/*/syscall.tbl, the same on all but alpha

_MNT_ID_REQ = struct.Struct("<IIQQQ")  # size, spare, mnt_id, param, mnt_ns_id
_MNT_NS_ID = 0x40  # STATMOUNT_MNT_NS_ID (include/uapi/linux/mount.h)
_OFFSET = 112  # of mnt_ns_id in struct statmount


def mnt_ns_of_mount(mount_id: int, mnt_ns: int = 0) -> int:
    """Id of the mount namespace that a mount is in; the mount is looked for in the namespace with
    the id `mnt_ns`, or in the caller's. Linux 6.11."""
    packed = _MNT_ID_REQ.pack(_MNT_ID_REQ.size, 0, mount_id, _MNT_NS_ID, mnt_ns)
    request = ctypes.create_string_buffer(packed)
    answer = (ctypes.c_uint64 * 64)()
    size = ctypes.sizeof(answer)
    syscall(SYS_STATMOUNT, ctypes.addressof(request), ctypes.addressof(answer), size, 0)
    return answer[_OFFSET // 8]
