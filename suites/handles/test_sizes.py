# SPDX-License-Identifier: GPL-2.0-only
"""handle_bytes of a handle to open, and what follows the part that the kernel knows."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from errno import EFAULT, EINVAL, ESTALE

import pytest
from nslib import (
    FD_NSFS_ROOT,
    HANDLE_SIZE,
    KERNEL_ADDRESS,
    MAX_HANDLE_SIZE,
    NS,
    UNMAPPED_ADDRESS,
    NsHandle,
    errno_of,
    guarded_room,
    open_by_handle_at,
    opened,
    opening_errno,
)

needs_handles = pytest.mark.needs("nsfs_handles")

HEADER = 8  # bytes of struct file_handle in front of the payload
LONGER = (20, 24, 32, 36, 40, 44, 48, 64, 68, 96, MAX_HANDLE_SIZE)


@needs_handles
@pytest.mark.behaviour("NFH-20")
def test_size_out_of_range_is_refused(handle: NsHandle) -> None:
    for size in (0, MAX_HANDLE_SIZE + 1, 132, 2**31, 2**32 - 1):
        assert opening_errno(replace(handle, handle_bytes=size, tail=bytes(256))) == EINVAL, size


@needs_handles
@pytest.mark.behaviour("NFH-20")
def test_size_must_cover_what_the_kernel_knows(handle: NsHandle) -> None:
    errnos = [opening_errno(replace(handle, handle_bytes=size)) for size in range(1, HANDLE_SIZE)]
    assert errnos == [ESTALE] * 15


@needs_handles
@pytest.mark.behaviour("NFH-20")
def test_size_counts_in_words(handle: NsHandle) -> None:
    for size in range(HANDLE_SIZE, HANDLE_SIZE + 4):
        for tail in (bytes(3), b"\xff" * 3):
            assert opening_errno(replace(handle, handle_bytes=size, tail=tail)) == 0, size


def tails(size: int) -> list[bytes]:
    """Tails for a handle of `size` bytes: zero, not zero at one end, not zero at all."""
    length = size - HANDLE_SIZE
    start, end = b"\1".ljust(length, b"\0"), b"\1".rjust(length, b"\0")
    return [bytes(length), start, end, b"\xff" * length]


def zero_tail(handle: NsHandle) -> bool:
    """The rule that is meant: what follows the known part must be zero."""
    return not any(handle.tail)


def zero_words_as_bytes(handle: NsHandle) -> bool:
    """The rule of Linux 6.18 to 7.3.4, which takes numbers of words for numbers of bytes."""
    return not any(handle.pack()[HEADER + 4 : HEADER + handle.handle_bytes // 4])


@needs_handles
@pytest.mark.behaviour("NFH-21")
def test_longer_handle_opens_by_its_tail(
    own_handles: dict[NS, NsHandle], observe: Callable[[str, object], None]
) -> None:
    """No kernel with the rule that is meant has been released, so the other is accepted too."""
    forged = [
        replace(handle, handle_bytes=size, tail=tail)
        for handle in own_handles.values()
        for size in LONGER
        for tail in tails(size)
    ]
    opens = {handle: opening_errno(handle) for handle in forged}
    assert set(opens.values()) <= {0, ESTALE}
    rules = [
        rule.__name__
        for rule in (zero_tail, zero_words_as_bytes)
        if all((opens[handle] == 0) == rule(handle) for handle in forged)
    ]
    observe("rule_for_longer_handles", rules)
    assert rules


@pytest.mark.needs("id_handles")
@pytest.mark.behaviour("NFH-21")
def test_longer_handle_of_an_id_opens_by_its_tail(handle: NsHandle) -> None:
    forged = [
        NsHandle(handle.ns_id, handle_bytes=size, tail=tail)
        for size in LONGER
        for tail in tails(size)
    ]
    opens = {one: opening_errno(one) for one in forged}
    assert set(opens.values()) <= {0, ESTALE}
    assert any(
        all((opens[one] == 0) == rule(one) for one in forged)
        for rule in (zero_tail, zero_words_as_bytes)
    )


@pytest.fixture(params=["/dev", pytest.param("nsfs", marks=needs_handles)])
def mount_fd(request: pytest.FixtureRequest) -> Iterator[int]:
    """An fd of a file system that takes handles."""
    if request.param == "nsfs":
        yield FD_NSFS_ROOT
    else:
        with opened(request.param) as fd:
            yield fd


@pytest.mark.behaviour("NFH-22")
def test_header_must_be_readable(mount_fd: int) -> None:
    with guarded_room() as room:
        cut = room.place_at_end(NsHandle(1).pack()[: HEADER - 1])
        for address in (0, UNMAPPED_ADDRESS, KERNEL_ADDRESS, room.end, cut):
            assert errno_of(open_by_handle_at, mount_fd, address, 0) == EFAULT


@pytest.mark.behaviour("NFH-22")
def test_payload_must_be_readable(mount_fd: int) -> None:
    packed = NsHandle(1).pack()
    with guarded_room() as room:
        for size in (HEADER, HEADER + 8, len(packed) - 1):
            address = room.place_at_end(packed[:size])
            assert errno_of(open_by_handle_at, mount_fd, address, 0) == EFAULT


@needs_handles
@pytest.mark.behaviour("NFH-22")
def test_nothing_beyond_the_payload_is_read(handle: NsHandle) -> None:
    with guarded_room() as room:
        address = room.place_at_end(handle.pack())
        os.close(open_by_handle_at(FD_NSFS_ROOT, address, os.O_RDONLY | os.O_CLOEXEC))
