# SPDX-License-Identifier: GPL-2.0-only
"""name_to_handle_at(2): from a namespace to its handle (nsfs_encode_fh() in fs/nsfs.c)."""

import ctypes
import os
from errno import EINVAL, EOPNOTSUPP, EOVERFLOW

import pytest
from nslib import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    FILEID_NSFS,
    HANDLE_SIZE,
    MAX_HANDLE_SIZE,
    NS,
    Held,
    NsHandle,
    bind_mounted,
    configured_types,
    encode_handle,
    errno_of,
    name_to_handle_at,
    ns_link,
    opened,
    type_of,
)

AT_HANDLE_MNT_ID_UNIQUE = 1  # include/uapi/linux/fcntl.h, as all of this block
AT_HANDLE_CONNECTABLE = 2

needs_handles = pytest.mark.needs("nsfs_handles")


def encode_into(fd: int, room: ctypes.Array[ctypes.c_char], handle_bytes: int) -> int:
    """The errno of encoding the handle of a file into `room`, announced as `handle_bytes` long."""
    room.raw = NsHandle(0, handle_bytes=handle_bytes, handle_type=0).pack().ljust(len(room), b"\0")
    mount_id = ctypes.c_uint64()
    address = ctypes.addressof(mount_id)
    return errno_of(name_to_handle_at, fd, "", ctypes.addressof(room), address, AT_EMPTY_PATH)


@pytest.fixture
def room() -> ctypes.Array[ctypes.c_char]:
    """Memory for a struct file_handle and more."""
    return ctypes.create_string_buffer(256)


@needs_handles
@pytest.mark.behaviour("NFH-01")
def test_every_type_has_handles_of_one_form(of_every_type: dict[NS, Held]) -> None:
    for kind, held in of_every_type.items():
        handle = encode_handle(held.fd).handle
        assert (handle.handle_bytes, handle.handle_type) == (HANDLE_SIZE, FILEID_NSFS), kind.name
        assert (handle.ns_id, handle.ns_type) == (held.id, type_of(held.fd)), kind.name
        assert handle.ns_inum == os.fstat(held.fd).st_ino, kind.name


@needs_handles
@pytest.mark.behaviour("NFH-02")
def test_room_too_small_is_told_the_size(room: ctypes.Array[ctypes.c_char]) -> None:
    with opened(ns_link(NS.MNT)) as fd:
        for size in (0, 1, 8, HANDLE_SIZE - 1):
            assert encode_into(fd, room, size) == EOVERFLOW
            assert int.from_bytes(room.raw[:4], "little") == HANDLE_SIZE
            assert not any(room.raw[8:])


@needs_handles
@pytest.mark.behaviour("NFH-01", "NFH-02")
def test_more_room_than_needed_is_left_alone(room: ctypes.Array[ctypes.c_char]) -> None:
    with opened(ns_link(NS.MNT)) as fd:
        assert encode_into(fd, room, MAX_HANDLE_SIZE) == 0
        assert room.raw.rstrip(b"\0") == encode_handle(fd).handle.pack().rstrip(b"\0")


@pytest.mark.behaviour("NFH-03")
@pytest.mark.parametrize(
    "path", ["/dev", pytest.param("/proc/self/ns/mnt", marks=needs_handles)], ids=["dev", "nsfs"]
)
def test_size_beyond_all_handles_is_refused(room: ctypes.Array[ctypes.c_char], path: str) -> None:
    with opened(path) as fd:
        assert encode_into(fd, room, MAX_HANDLE_SIZE) == 0
        for size in (MAX_HANDLE_SIZE + 1, 2**31, 2**32 - 1):
            assert encode_into(fd, room, size) == EINVAL


@needs_handles
@pytest.mark.behaviour("NFH-04")
def test_link_leads_to_the_same_handle() -> None:
    for kind in configured_types():
        with opened(ns_link(kind)) as fd:
            followed = encode_handle(AT_FDCWD, str(ns_link(kind)), AT_SYMLINK_FOLLOW)
            assert followed == encode_handle(fd), kind.name


@needs_handles
@pytest.mark.behaviour("NFH-04")
def test_link_itself_has_no_handle() -> None:
    assert errno_of(encode_handle, AT_FDCWD, str(ns_link(NS.MNT)), 0) == EOPNOTSUPP


@needs_handles
@pytest.mark.behaviour("NFH-05")
def test_bind_mount_leads_to_the_same_handle(of_every_type: dict[NS, Held]) -> None:
    for kind, held in of_every_type.items():
        direct = encode_handle(held.fd)
        with bind_mounted(held.fd) as path:
            mounted = encode_handle(AT_FDCWD, path, 0)
        assert mounted.handle == direct.handle, kind.name
        assert mounted.mount_id != direct.mount_id, kind.name


@needs_handles
@pytest.mark.behaviour("NFH-06")
def test_no_handle_is_connectable() -> None:
    with opened(ns_link(NS.MNT)) as fd:
        assert errno_of(encode_handle, fd, "", AT_EMPTY_PATH | AT_HANDLE_CONNECTABLE) == EINVAL
        for follow in (0, AT_SYMLINK_FOLLOW):
            flags = follow | AT_HANDLE_CONNECTABLE
            link = str(ns_link(NS.MNT))
            assert errno_of(encode_handle, AT_FDCWD, link, flags) == EOPNOTSUPP


@needs_handles
@pytest.mark.behaviour("NFH-29")
def test_unique_mount_id_is_one_for_all() -> None:
    uniques, others = set(), set()
    for kind in configured_types():
        with opened(ns_link(kind)) as fd:
            other = encode_handle(fd)
            unique = encode_handle(fd, "", AT_EMPTY_PATH | AT_HANDLE_MNT_ID_UNIQUE)
        assert unique.handle == other.handle, kind.name
        uniques.add(unique.mount_id)
        others.add(other.mount_id)
    [in_64_bits], [in_32_bits] = uniques, others
    # Unique ids start at 2^31 + 1 so that nobody takes them for the others (fs/namespace.c).
    assert in_32_bits < 2**31 < in_64_bits
