# SPDX-License-Identifier: GPL-2.0-only
"""nsfs file handles: taken from a namespace, forged from its id, opened. Linux 6.18.

Commit 5222470b2fbb; opening by the id alone since Linux 6.19, commit 04173501a69e.
"""

import ctypes
import os
import struct
from dataclasses import dataclass

from .memory import peek
from .syscalls import (
    AT_EMPTY_PATH,
    FD_NSFS_ROOT,
    errno_of,
    name_to_handle_at,
    open_by_handle_at,
)

FILEID_NSFS = 0xF1
"""handle_type of a namespace (include/linux/exportfs.h)."""
HANDLE_SIZE = 16
"""Bytes of struct nsfs_file_handle (include/uapi/linux/nsfs.h)."""
MAX_HANDLE_SIZE = 128
"""MAX_HANDLE_SZ (include/linux/exportfs.h)."""

_HEADER = struct.Struct("<Ii")  # struct file_handle: handle_bytes, handle_type
_PAYLOAD = struct.Struct("<QII")  # struct nsfs_file_handle: ns_id, ns_type, ns_inum


@dataclass(frozen=True, slots=True)
class NsHandle:
    """struct file_handle with a struct nsfs_file_handle in it; `tail` follows the payload.

    With only `ns_id` set the kernel looks the namespace up by its id alone.
    """

    ns_id: int
    ns_type: int = 0
    ns_inum: int = 0
    handle_bytes: int = HANDLE_SIZE
    handle_type: int = FILEID_NSFS
    tail: bytes = b""

    def pack(self) -> bytes:
        """The handle as the kernel reads it."""
        payload = _PAYLOAD.pack(self.ns_id, self.ns_type, self.ns_inum)
        return _HEADER.pack(self.handle_bytes, self.handle_type) + payload + self.tail


@dataclass(frozen=True, slots=True)
class Encoded:
    """What name_to_handle_at returned: the handle, and the id of the mount on the way to it."""

    handle: NsHandle
    mount_id: int


def encode_handle(dirfd: int, path: str = "", flags: int = AT_EMPTY_PATH) -> Encoded:
    """The handle of an nsfs file: of the fd itself, or with other `flags` of a path."""
    room = ctypes.create_string_buffer(NsHandle(0, handle_type=0).pack())
    mount_id = ctypes.c_uint64()  # an int, or 64 bits with AT_HANDLE_MNT_ID_UNIQUE
    name_to_handle_at(dirfd, path, ctypes.addressof(room), ctypes.addressof(mount_id), flags)
    raw = peek(ctypes.addressof(room), _HEADER.size + HANDLE_SIZE)
    handle_bytes, handle_type = _HEADER.unpack_from(raw)
    ns_id, ns_type, ns_inum = _PAYLOAD.unpack_from(raw, _HEADER.size)
    handle = NsHandle(ns_id, ns_type, ns_inum, handle_bytes, handle_type)
    return Encoded(handle, mount_id.value)


def open_handle(
    handle: NsHandle, mount_fd: int = FD_NSFS_ROOT, flags: int = os.O_RDONLY | os.O_CLOEXEC
) -> int:
    """A new fd of the namespace that the handle names; ESTALE if gone, inactive or foreign."""
    packed = ctypes.create_string_buffer(handle.pack())
    return open_by_handle_at(mount_fd, ctypes.addressof(packed), flags)


def open_id(ns_id: int) -> int:
    """A new fd of the active namespace with this id, by a handle that holds nothing else."""
    return open_handle(NsHandle(ns_id))


def opening_errno(
    handle: NsHandle, mount_fd: int = FD_NSFS_ROOT, flags: int = os.O_RDONLY | os.O_CLOEXEC
) -> int:
    """The errno with which open_handle() fails, 0 if it succeeds; the new fd is closed."""
    return errno_of(lambda: os.close(open_handle(handle, mount_fd, flags)))
