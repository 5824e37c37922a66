# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): where a list goes on behind a cursor, whatever that is, and how it ends."""

import os
from collections.abc import Callable
from dataclasses import replace
from errno import ENOENT
from itertools import combinations, product

import pytest
from nslib import (
    INITIAL_IDS,
    NEVER_AN_ID,
    NS,
    SOMEBODY,
    ListRequest,
    Task,
    configured_types,
    errno_of,
    hold,
    hold_inactive,
    holding,
    ids_of,
    iterate_pages,
    list_all,
    list_page,
    ns_id,
    owned,
    undisturbed,
    unshare,
    wait_for_removals,
)

Observe = Callable[[str, object], None]

pytestmark = pytest.mark.needs("listns", "uts_ns", "ipc_ns")

# All types, one, several: do_listns() in kernel/nstree.c walks a tree of its own for one type.
WITH_UTS = (NS.NONE, NS.UTS, NS.UTS | NS.IPC)
WITH_IPC = (NS.NONE, NS.IPC, NS.UTS | NS.IPC)


def next_id(cursor: int, types: int = 0) -> int | None:
    """The first id above the cursor; None if there is none."""
    return next(iterate_pages(ListRequest(types, cursor=cursor), 1), [None])[0]


def ended_id(kind: NS) -> int:
    """Id of a namespace that has ended."""
    with holding(kind) as [held]:
        return held.id


@pytest.mark.behaviour("LNS-PAG-05")
def test_list_goes_on_with_the_next_higher_id() -> None:
    with holding(*configured_types(NS.USER, NS.NET)):
        wait_for_removals()
        listed, from_below, from_it = undisturbed(_neighbours)
    assert from_below == listed
    assert from_it == [*listed[1:], None]


def _neighbours() -> tuple[list[int], list[int | None], list[int | None]]:
    """The whole list; what follows on a cursor one below each id; and on the id itself."""
    listed = list_all()
    return listed, [next_id(one - 1) for one in listed], [next_id(one) for one in listed]


@pytest.mark.behaviour("LNS-PAG-06")
def test_cursor_can_be_a_namespace_that_has_ended() -> None:
    for kind in configured_types(NS.USER):
        ended = ended_id(kind)
        with holding(kind) as [later]:
            for types in (NS.NONE, kind, kind | NS.UTS):
                assert list_page(ListRequest(types, cursor=ended)) == [later.id], (kind, types)


@pytest.mark.behaviour("LNS-PAG-07")
def test_cursor_can_be_an_id_that_never_was() -> None:
    with holding(NS.UTS, NS.IPC) as held:
        wait_for_removals()
        request = ListRequest(cursor=NEVER_AN_ID)
        listed, above = undisturbed(lambda: (list_all(), list_page(request)))
    assert set(ids_of(held)) <= set(above)
    assert above == [one for one in listed if one > NEVER_AN_ID]


@pytest.mark.behaviour("LNS-PAG-07")
def test_cursor_can_be_anywhere_in_a_gap() -> None:
    with holding(NS.UTS) as [below]:
        gap = [ended_id(NS.UTS) for _ in range(3)]
        with holding(NS.UTS) as [above]:
            for cursor, types in product([below.id, *gap], WITH_UTS):
                assert list_page(ListRequest(types, cursor=cursor)) == [above.id], types


@pytest.mark.behaviour("LNS-PAG-08")
def test_cursor_can_be_of_another_type_than_the_list() -> None:
    kinds = configured_types(NS.USER, NS.NET) * 2
    with holding(*kinds) as held:
        for cursor, kind in product(ids_of(held), NS):
            own = [one.id for one, its in zip(held, kinds, strict=True) if its == kind]
            above = [one for one in own if one > cursor]
            assert list_all(kind, cursor=cursor) == above, (kind, cursor)


@pytest.mark.behaviour("LNS-PAG-08")
def test_cursor_can_be_an_initial_namespace_of_another_type() -> None:
    for kind, cursor in product(configured_types(), INITIAL_IDS.values()):
        initial = INITIAL_IDS[kind]
        assert (next_id(cursor, kind) == initial) == (cursor < initial), (kind, cursor)


@pytest.mark.behaviour("LNS-PAG-09")
@pytest.mark.needs("user_ns")
def test_cursor_can_be_of_another_owner_than_the_list() -> None:
    with Task(NS.USER | NS.UTS) as task, holding(NS.UTS) as [foreign]:
        owner, first = ns_id(NS.USER, task.pid), ns_id(NS.UTS, task.pid)
        second = task.call(hold, NS.UTS).id
        assert first < foreign.id < second
        request = ListRequest(owner=owner)
        assert list_page(replace(request, cursor=foreign.id)) == [second]
        for cursor in (*INITIAL_IDS.values(), owner - 1, owner):
            assert list_page(replace(request, cursor=cursor)) == [first, second]


@pytest.mark.behaviour("LNS-PAG-11")
def test_cursor_above_all_is_refused() -> None:
    with holding(NS.UTS) as [newest]:
        for types, owner in product(WITH_UTS, [0, ns_id(NS.USER)]):
            request = ListRequest(types, owner, newest.id)
            assert errno_of(list_page, request) == ENOENT, request


@pytest.mark.behaviour("LNS-PAG-11")
def test_cursor_below_an_inactive_namespace_gives_an_empty_list(observe: Observe) -> None:
    with holding(NS.IPC) as [newest_active], owned(hold_inactive().fd):
        asked = product(WITH_IPC, [0, ns_id(NS.USER)])
        requests = [ListRequest(types, owner, newest_active.id) for types, owner in asked]
        answers = [_ids_or_errno(request) for request in requests]
        with holding(NS.IPC) as [later]:
            goes_on = _ids_or_errno(requests[0]) == [later.id]
    # A kernel that cannot go on behind an inactive namespace (LNS-PAG-13) refuses here instead.
    observe("below_inactive", [str(answer) for answer in answers])
    assert answers == [[] if goes_on else ENOENT] * len(requests)


def _ids_or_errno(request: ListRequest) -> list[int] | int | None:
    try:
        return list_page(request)
    except OSError as error:
        return error.errno


@pytest.mark.behaviour("LNS-PAG-11")
def test_cursor_below_an_invisible_namespace_gives_an_empty_list() -> None:
    with Task(NS.UTS, uid=SOMEBODY) as task, holding(NS.UTS):
        newest_visible = ns_id(NS.UTS, task.pid)
        for types, owner in product(WITH_UTS, [0, ns_id(NS.USER)]):
            assert task.call(list_page, ListRequest(types, owner, newest_visible)) == []


@pytest.mark.behaviour("LNS-PAG-12")
def test_one_type_is_looked_up_among_its_own() -> None:
    with holding(NS.UTS, NS.IPC) as [uts, newest]:
        answers = {kind: errno_of(list_page, ListRequest(kind, cursor=uts.id)) for kind in NS}
        assert answers == {**dict.fromkeys(NS, ENOENT), NS.IPC: 0}
        assert errno_of(list_page, ListRequest(NS.IPC, cursor=newest.id)) == ENOENT


@pytest.mark.behaviour("LNS-PAG-12")
def test_several_types_are_looked_up_among_all() -> None:
    others = [kind for kind in NS if kind != NS.IPC]
    with holding(NS.UTS, NS.IPC) as [uts, newest]:
        for one, other in combinations(others, 2):
            assert list_page(ListRequest(one | other, cursor=uts.id)) == []
        assert list_page(ListRequest(NS.ALL & ~NS.IPC, cursor=uts.id)) == []
        assert list_page(ListRequest(cursor=uts.id)) == [newest.id]


@pytest.mark.behaviour("LNS-PAG-13")
def test_inactive_namespaces_behind_the_cursor_are_skipped() -> None:
    with (
        holding(NS.IPC) as [below],
        owned(hold_inactive().fd),
        owned(hold_inactive().fd),
        holding(NS.IPC) as [above],
    ):
        for types in WITH_IPC:
            assert list_page(ListRequest(types, cursor=below.id)) == [above.id]


@pytest.mark.behaviour("LNS-PAG-14")
@pytest.mark.needs("user_ns")
def test_inactive_namespaces_behind_the_cursor_are_skipped_in_the_list_of_an_owner() -> None:
    with Task(NS.USER | NS.IPC) as task:
        for _ in range(2):
            task.call(hold_inactive)
        above = task.call(hold, NS.IPC).id
        owner, below = ns_id(NS.USER, task.pid), ns_id(NS.IPC, task.pid)
        for types in WITH_IPC:
            assert list_page(ListRequest(types, owner, below)) == [above]


@pytest.mark.behaviour("LNS-PAG-15")
@pytest.mark.needs("user_ns")
def test_inactive_namespace_is_skipped_at_the_start_of_the_list_of_an_owner() -> None:
    with Task(NS.USER) as task:
        inactive = task.call(_leave_inactive_ipc_ns)
        current = ns_id(NS.IPC, task.pid)
        assert inactive < current
        for types in WITH_IPC:
            assert list_page(ListRequest(types, ns_id(NS.USER, task.pid))) == [current]


def _leave_inactive_ipc_ns() -> int:
    """Move from a new ipc namespace, of which an open file remains, to another; returns its id.

    Unlike hold_inactive() it works where the caller has no right to return to where it was.
    """
    unshare(NS.IPC)
    os.open("/proc/sysvipc/msg", os.O_RDONLY)
    left = ns_id(NS.IPC)
    unshare(NS.IPC)
    return left
