# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): the array that the ids are written to, and faults in it."""

import struct
from collections.abc import Iterator
from errno import EFAULT

import pytest
from nslib import (
    INITIAL_IDS,
    KERNEL_ADDRESS,
    NS,
    UNMAPPED_ADDRESS,
    Held,
    ListRequest,
    Room,
    errno_of,
    holding,
    list_into,
    list_page,
    listns_raw,
    peek,
    poke,
    read_ids,
)

pytestmark = pytest.mark.needs("listns")

INITIAL_USER_NS = INITIAL_IDS[NS.USER]
EVERY_WALK = [ListRequest(), ListRequest(NS.UTS), ListRequest(owner=INITIAL_USER_NS)]
PATTERN = b"\xa5" * 64


def errnos_of_every_walk(ids: int) -> list[int]:
    """With what each walk fails when the first id it finds goes to the address `ids`."""
    return [errno_of(list_into, request, ids, 1) for request in EVERY_WALK]


@pytest.fixture
def newest() -> Iterator[tuple[ListRequest, list[int]]]:
    """A request that gives two namespaces, and their ids."""
    # Time namespaces: hardly anything else makes them, so that no newer one comes in between.
    with holding(NS.TIME, NS.TIME) as held:
        ids = sorted(ns.id for ns in held)
        yield ListRequest(NS.TIME, cursor=ids[0] - 1), ids


@pytest.fixture
def childless() -> Iterator[Held]:
    """A user namespace that owns nothing."""
    with holding(NS.USER) as [user]:
        yield user


@pytest.mark.behaviour("LNS-ARG-09")
def test_kernel_address_faults_before_the_request_is_read() -> None:
    for nr in (0, 1):
        assert errno_of(list_into, ListRequest(size=0), KERNEL_ADDRESS, nr) == EFAULT
        assert errno_of(listns_raw, 0, KERNEL_ADDRESS, nr, 0) == EFAULT


@pytest.mark.behaviour("LNS-ARG-10")
def test_null_faults_when_there_is_something_to_write() -> None:
    assert errnos_of_every_walk(0) == [EFAULT] * 3


@pytest.mark.behaviour("LNS-ARG-11")
def test_null_is_fine_when_there_is_nothing_to_write(childless: Held) -> None:
    assert list_into(ListRequest(owner=childless.id), 0, 1) == 0


@pytest.mark.behaviour("LNS-ARG-12")
def test_unmapped_address_faults() -> None:
    assert errnos_of_every_walk(UNMAPPED_ADDRESS) == [EFAULT] * 3


@pytest.mark.behaviour("LNS-ARG-13")
def test_read_only_memory_faults(room: Room) -> None:
    room.make_read_only()
    assert errnos_of_every_walk(room.start) == [EFAULT] * 3
    assert peek(room.start, room.size) == bytes(room.size)


@pytest.mark.behaviour("LNS-ARG-14")
@pytest.mark.parametrize("slots", [0, 1, 3])
def test_fault_leaves_no_count_but_the_ids_before(slots: int, room: Room) -> None:
    ids = room.end - 8 * slots
    with holding(NS.UTS, NS.UTS, NS.UTS):
        for request in EVERY_WALK:
            smallest = sorted(list_page(request))[: slots + 1]
            assert len(smallest) == slots + 1
            poke(ids, bytes(8 * slots))
            assert errno_of(list_into, request, ids, slots + 1) == EFAULT
            assert read_ids(ids, slots) == smallest[:slots]


@pytest.mark.behaviour("LNS-ARG-14")
def test_fault_within_a_slot_is_a_fault(room: Room) -> None:
    ids = room.end - 12
    assert errno_of(list_into, ListRequest(), ids, 2) == EFAULT
    assert read_ids(ids, 1) == list_page(ListRequest(), 1)


@pytest.mark.behaviour("LNS-ARG-15")
def test_slots_that_do_not_exist_are_not_missed(
    newest: tuple[ListRequest, list[int]], room: Room
) -> None:
    request, ids = newest
    for nr in (3, 1000):
        assert list_into(request, room.end - 16, nr) == 2
        assert read_ids(room.end - 16, 2) == ids


@pytest.mark.behaviour("LNS-ARG-16")
def test_slots_past_the_count_are_not_written(
    newest: tuple[ListRequest, list[int]], room: Room
) -> None:
    request, ids = newest
    poke(room.start, PATTERN)
    assert list_into(request, room.start, 8) == 2
    assert peek(room.start, len(PATTERN)) == struct.pack("2Q", *ids) + PATTERN[16:]


@pytest.mark.behaviour("LNS-ARG-16")
def test_empty_list_leaves_the_array_alone(childless: Held, room: Room) -> None:
    poke(room.start, PATTERN)
    assert list_into(ListRequest(owner=childless.id), room.start, 8) == 0
    assert peek(room.start, len(PATTERN)) == PATTERN


@pytest.mark.behaviour("LNS-ARG-36")
def test_array_need_not_be_aligned(newest: tuple[ListRequest, list[int]], room: Room) -> None:
    request, ids = newest
    for offset in range(1, 8):
        poke(room.start, PATTERN)
        assert list_into(request, room.start + offset, 2) == 2
        written = PATTERN[:offset] + struct.pack("2Q", *ids) + PATTERN[offset + 16 :]
        assert peek(room.start, len(PATTERN)) == written
