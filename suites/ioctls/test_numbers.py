# SPDX-License-Identifier: GPL-2.0-only
"""The numbers of ioctls: what is not known is refused, whatever else would fit."""

import os
from collections.abc import Iterator
from errno import ENOTTY

import pytest
from nslib import (
    NS,
    NS_GET_ID,
    NS_GET_MNTNS_ID,
    NS_GET_NSTYPE,
    NS_GET_OWNER_UID,
    NS_GET_PARENT,
    NS_GET_PID_IN_PIDNS,
    NS_GET_USERNS,
    NS_MNT_GET_INFO,
    NS_MNT_GET_NEXT,
    PidfdGet,
    Room,
    configured_types,
    errno_of,
    guarded_room,
    ioctl,
    ns_link,
    open_ns,
    opened,
    owned,
)

MAGIC = 0xB700  # include/uapi/linux/nsfs.h
READ, WRITE = 2 << 30, 1 << 30  # include/uapi/asm-generic/ioctl.h, as all of this block
SIZE_SHIFT = 16
SIZE_MASK = 0x3FFF << SIZE_SHIFT

KNOWN = (
    NS_GET_USERNS,
    NS_GET_PARENT,
    NS_GET_NSTYPE,
    NS_GET_OWNER_UID,
    NS_GET_MNTNS_ID,
    NS_GET_PID_IN_PIDNS,
    NS_MNT_GET_INFO,
    NS_MNT_GET_NEXT,
    NS_GET_ID,
)


@pytest.fixture
def room() -> Iterator[Room]:
    """Where an ioctl could write to."""
    with guarded_room() as room:
        yield room


@pytest.mark.behaviour("IOC-08")
def test_unknown_number_is_no_ioctl_of_a_namespace(room: Room) -> None:
    for kind in configured_types():
        with opened(ns_link(kind)) as fd:
            for number in (0, 100, 254, 255):
                for form in (0, READ | 8 << SIZE_SHIFT, READ | WRITE | 16 << SIZE_SHIFT):
                    request = MAGIC | form | number
                    assert errno_of(ioctl, fd, request, room.start) == ENOTTY, hex(request)


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("IOC-08")
def test_numbers_of_other_files_are_no_ioctls_of_a_namespace(room: Room) -> None:
    autofs, tty = 0x9300, 0x5400  # the same numbers, another magic byte
    with opened(ns_link(NS.MNT)) as fd:
        for request in KNOWN:
            for magic in (autofs, tty):
                other = request & ~0xFF00 | magic
                assert errno_of(ioctl, fd, other, room.start) == ENOTTY, hex(other)


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("IOC-09")
def test_direction_must_fit(room: Room) -> None:
    with opened(ns_link(NS.MNT)) as fd:
        for request in KNOWN:
            for direction in {0, READ, WRITE, READ | WRITE} - {request & (READ | WRITE)}:
                other = request & ~(READ | WRITE) | direction
                assert errno_of(ioctl, fd, other, room.start) == ENOTTY, hex(other)


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("IOC-09")
def test_size_must_fit(room: Room) -> None:
    extensible = {NS_MNT_GET_INFO, NS_MNT_GET_NEXT}
    with opened(ns_link(NS.MNT)) as fd:
        for request in set(KNOWN) - extensible:
            for size in {0, 1, 4, 8, 16} - {(request & SIZE_MASK) >> SIZE_SHIFT}:
                other = request & ~SIZE_MASK | size << SIZE_SHIFT
                assert errno_of(ioctl, fd, other, room.start) == ENOTTY, hex(other)
        for request in extensible:
            for size in (0, 8, 15):
                other = request & ~SIZE_MASK | size << SIZE_SHIFT
                assert errno_of(ioctl, fd, other, room.start) == ENOTTY, hex(other)


@pytest.mark.needs("pidfd_ioctls", "nsid")
@pytest.mark.behaviour("IOC-23")
def test_pidfd_knows_no_ioctl_of_a_namespace(pidfd: int, room: Room) -> None:
    for request in KNOWN:
        assert errno_of(ioctl, pidfd, request, room.start) == ENOTTY, hex(request)


@pytest.mark.needs("nsid")
@pytest.mark.behaviour("IOC-23")
def test_namespace_knows_no_ioctl_of_a_pidfd() -> None:
    for kind in configured_types():
        with owned(open_ns(kind)) as fd:
            for request in PidfdGet:
                assert errno_of(ioctl, fd, request) == ENOTTY, (kind.name, request.name)


@pytest.mark.behaviour("IOC-23")
def test_other_files_know_neither(room: Room) -> None:
    with owned(os.memfd_create("")) as fd:
        for request in (*KNOWN, *PidfdGet):
            assert errno_of(ioctl, fd, request, room.start) == ENOTTY, hex(request)
