# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): flags and count, which mistake counts, and what is no mistake."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import E2BIG, EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW

import pytest
from nslib import (
    BEYOND_ALL_IDS,
    INITIAL_IDS,
    KERNEL_ADDRESS,
    LISTNS_CURRENT_USER,
    MAX_NR,
    NEVER_AN_ID,
    NS,
    Cap,
    ListRequest,
    Room,
    Task,
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
PATTERN = b"\xa5" * 64


def errnos(requests: Iterable[ListRequest], nr: int = 1) -> list[int]:
    """The errno of each request in turn, 0 for those that succeed."""
    return [errno_of(list_page, request, nr) for request in requests]


@pytest.mark.behaviour("LNS-ARG-01")
def test_every_flag_is_refused() -> None:
    flags = [1 << bit for bit in range(32)]
    refused = {flag: errno_of(list_page, ListRequest(), 1, flag) for flag in flags}
    assert refused == dict.fromkeys(flags, EINVAL)


@pytest.mark.behaviour("LNS-ARG-02")
def test_flags_are_looked_at_first() -> None:
    assert errno_of(listns_raw, 0, 0, 2**63, 1) == EINVAL
    assert errno_of(listns_raw, 0, KERNEL_ADDRESS, 1, 1) == EINVAL


@pytest.mark.behaviour("LNS-ARG-03")
def test_flags_have_32_bits() -> None:
    ids = list_page(ListRequest(), 4)
    assert len(ids) == 4
    assert list_page(ListRequest(), 4, flags=1 << 32) == ids


@pytest.mark.behaviour("LNS-ARG-04")
def test_count_above_the_limit_overflows() -> None:
    assert errno_of(list_into, ListRequest(), 0, MAX_NR + 1) == EOVERFLOW


@pytest.mark.behaviour("LNS-ARG-05")
def test_count_at_the_limit_is_accepted(room: Room) -> None:
    with holding(NS.TIME) as [time]:
        newest = ListRequest(NS.TIME, cursor=time.id - 1)
        assert list_into(newest, room.end - 8, MAX_NR) == 1
        assert read_ids(room.end - 8, 1) == [time.id]


@pytest.mark.behaviour("LNS-ARG-06")
def test_count_has_64_bits() -> None:
    counts = [2**32, 2**32 + 1, 2**61, 2**63, 2**64 - 1]
    refused = {nr: errno_of(list_into, ListRequest(), 0, nr) for nr in counts}
    assert refused == dict.fromkeys(counts, EOVERFLOW)


@pytest.mark.behaviour("LNS-ARG-07")
def test_room_for_none_gives_none(room: Room) -> None:
    poke(room.start, PATTERN)
    for owner in (0, INITIAL_USER_NS):
        assert list_into(ListRequest(owner=owner), room.start, 0) == 0
        assert list_into(ListRequest(owner=owner), 0, 0) == 0
    assert peek(room.start, len(PATTERN)) == PATTERN


@pytest.mark.behaviour("LNS-ARG-08")
def test_room_for_none_needs_a_valid_request() -> None:
    mistakes = {
        ListRequest(size=31): EINVAL,
        ListRequest(size=4097): E2BIG,
        ListRequest(size=33, tail=b"\1"): E2BIG,
        ListRequest(spare=1): EINVAL,
        ListRequest(types=1): EOPNOTSUPP,
        ListRequest(owner=NEVER_AN_ID): EINVAL,
        ListRequest(cursor=BEYOND_ALL_IDS): ENOENT,
        ListRequest(owner=INITIAL_USER_NS, cursor=BEYOND_ALL_IDS): ENOENT,
    }
    assert {request: errno_of(list_into, request, 0, 0) for request in mistakes} == mistakes


@pytest.mark.behaviour("LNS-ARG-27")
def test_first_mistake_counts() -> None:
    cursor = ListRequest(cursor=BEYOND_ALL_IDS)
    owner = replace(cursor, owner=NEVER_AN_ID)
    types = replace(owner, types=1)
    spare = replace(types, spare=1)
    tail = replace(spare, size=40, tail=bytes(7) + b"\1")
    assert errnos([tail, spare, types, owner, cursor]) == [
        E2BIG,
        EINVAL,
        EOPNOTSUPP,
        EINVAL,
        ENOENT,
    ]


@pytest.mark.behaviour("LNS-ARG-37")
def test_lack_of_privilege_is_no_error() -> None:
    owners = (0, LISTNS_CURRENT_USER, INITIAL_USER_NS)
    requests = [ListRequest(types, owner) for types in (*NS, NS.NONE, NS.ALL) for owner in owners]
    with Task(NS.USER, uid=65534, caps=Cap.NONE) as task:
        assert task.call(errnos, requests) == [0] * len(requests)


@contextmanager
def signals_coming() -> Iterator[list[int]]:
    """Signals with a handler every half millisecond; gives those that have come."""
    came: list[int] = []
    former = signal.signal(signal.SIGALRM, lambda number, _: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.mark.behaviour("LNS-ARG-37")
def test_signals_do_not_interrupt() -> None:
    seen: set[int] = set()
    with signals_coming() as came:
        while len(came) < 20:
            seen.update(errnos([ListRequest()], nr=100))
    assert seen == {0}
