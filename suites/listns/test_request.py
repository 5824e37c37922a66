# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): struct ns_id_req, its size, its reserved fields, and faults in it."""

import ctypes
from collections.abc import Callable
from errno import E2BIG, EFAULT, EINVAL, EOPNOTSUPP

import pytest
from nslib import (
    KERNEL_ADDRESS,
    LISTNS_CURRENT_USER,
    NS,
    NS_ID_REQ_SIZE,
    PAGE_SIZE,
    UNMAPPED_ADDRESS,
    ListRequest,
    Room,
    errno_of,
    list_page,
    listns_raw,
    peek,
    poke,
)

pytestmark = pytest.mark.needs("listns")

LARGER_SIZES = [NS_ID_REQ_SIZE + 1, 40, 64, PAGE_SIZE]


def errno_at(request: int) -> int:
    """The errno of a call with the request at an address, 0 if it succeeds."""
    ids = (ctypes.c_uint64 * 4)()
    return errno_of(listns_raw, request, ctypes.addressof(ids), 4, 0)


@pytest.mark.behaviour("LNS-ARG-17")
def test_request_must_be_readable() -> None:
    assert [errno_at(address) for address in (0, UNMAPPED_ADDRESS, KERNEL_ADDRESS)] == [EFAULT] * 3


@pytest.mark.behaviour("LNS-ARG-18")
def test_request_must_be_readable_to_its_end(room: Room) -> None:
    for mapped in (3, 4, NS_ID_REQ_SIZE - 1):
        assert errno_at(room.place_at_end(ListRequest().pack()[:mapped])) == EFAULT


@pytest.mark.behaviour("LNS-ARG-19")
def test_smaller_request_is_invalid() -> None:
    refused = {size: errno_of(list_page, ListRequest(size=size)) for size in range(NS_ID_REQ_SIZE)}
    assert refused == dict.fromkeys(refused, EINVAL)


@pytest.mark.behaviour("LNS-ARG-20")
def test_larger_request_is_fine_with_zeros_behind() -> None:
    ids = list_page(ListRequest(), 4)
    assert len(ids) == 4
    for size in LARGER_SIZES:
        request = ListRequest(size=size, tail=bytes(size - NS_ID_REQ_SIZE))
        assert list_page(request, 4) == ids


@pytest.mark.behaviour("LNS-ARG-21")
def test_larger_request_is_too_big_with_anything_else_behind() -> None:
    for size in LARGER_SIZES:
        zeros = bytes(size - NS_ID_REQ_SIZE - 1)
        for tail in (b"\1" + zeros, zeros + b"\x80"):
            assert errno_of(list_page, ListRequest(size=size, tail=tail)) == E2BIG


@pytest.mark.behaviour("LNS-ARG-22")
def test_request_above_a_page_is_too_big_whatever_is_behind(room: Room) -> None:
    for size in (PAGE_SIZE + 1, 2**31, 2**32 - 1):
        assert errno_at(room.place_at_end(ListRequest(size=size).pack())) == E2BIG


@pytest.mark.behaviour("LNS-ARG-23")
def test_larger_request_must_be_readable_to_its_end(room: Room) -> None:
    for mapped in (0, 8, 31):
        request = ListRequest(size=64, tail=bytes(mapped))
        assert errno_at(room.place_at_end(request.pack())) == EFAULT


@pytest.mark.behaviour("LNS-ARG-24")
def test_spare_must_be_zero() -> None:
    values = [1 << bit for bit in range(32)]
    refused = {value: errno_of(list_page, ListRequest(spare=value)) for value in values}
    assert refused == dict.fromkeys(values, EINVAL)


@pytest.mark.behaviour("LNS-ARG-25")
def test_spare2_is_ignored_or_refused(observe: Callable[[str, object], None]) -> None:
    # Reserved by the documentation ("must be 0"), but no kernel up to 7.3.4 looks at it.
    answers = []
    for value in (1, 2**31, 2**32 - 1):
        request = ListRequest(spare2=value)
        answers.append(errno_of(list_page, request) or list_page(request, 4))
    observe("spare2", "refused" if EINVAL in answers else "ignored")
    assert answers in ([EINVAL] * 3, [list_page(ListRequest(), 4)] * 3)


@pytest.mark.behaviour("LNS-ARG-26")
def test_bits_that_are_no_type_are_not_supported() -> None:
    unknown = [1 << bit for bit in range(32) if not NS.ALL & 1 << bit]
    types = [bit | valid for bit in unknown for valid in (NS.NONE, NS.NET, NS.ALL)]
    refused = {bits: errno_of(list_page, ListRequest(types=bits)) for bits in types}
    assert refused == dict.fromkeys(types, EOPNOTSUPP)


@pytest.mark.behaviour("LNS-ARG-35")
def test_request_is_not_modified(room: Room) -> None:
    for owner in (0, LISTNS_CURRENT_USER):
        packed = ListRequest(NS.ALL, owner, cursor=1, size=64, tail=bytes(32)).pack()
        assert errno_at(poke(room.start, packed)) == 0
        assert peek(room.start, len(packed)) == packed
