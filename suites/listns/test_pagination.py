# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): the order of a list, its pages, and where a cursor makes it go on.

Cursors lie in or directly below what a scene has made. Thus no list ends early for a reason that
is not the scene's (before 7.3.4: an inactive namespace that a test before has left behind).
"""

import heapq
import os
from collections.abc import Iterable
from dataclasses import replace
from errno import ENOENT
from itertools import combinations

import pytest
from nslib import (
    INITIAL_IDS,
    LISTNS_CURRENT_USER,
    NEVER_AN_ID,
    NS,
    SOMEBODY,
    Held,
    ListRequest,
    Task,
    become,
    configured_types,
    errno_of,
    hold,
    hold_inactive,
    holding,
    holding_together,
    iterate_pages,
    list_all,
    list_page,
    ns_id,
    open_ns,
    owned,
    undisturbed,
    unshare,
    wait_for_removals,
)

pytestmark = pytest.mark.needs("listns", "uts_ns", "ipc_ns")


def _types(*without: NS) -> list[NS]:
    return [kind for kind in configured_types() if kind not in without]


def _ids(held: Iterable[Held]) -> list[int]:
    return [one.id for one in held]


def _rest(request: ListRequest, nr: int = 4096) -> list[int]:
    """All ids above the request's cursor, by pages of `nr`."""
    return [one for page in iterate_pages(request, nr) for one in page]


def _next(cursor: int, types: int = 0) -> int | None:
    """The first id above the cursor; None if there is none."""
    return next(iterate_pages(ListRequest(types, cursor=cursor), 1), [None])[0]


def _in_pages(types: int = 0, owner: int = 0) -> list[list[int]]:
    """A list in one call, then by pages of each size from 1 to its length plus one."""
    one_shot = list_page(ListRequest(types, owner))
    return [one_shot, *(list_all(types, owner, nr) for nr in range(1, len(one_shot) + 2))]


def _ended(kind: NS) -> int:
    """Id of a namespace that has ended."""
    with holding(kind) as [held]:
        return held.id


@pytest.mark.behaviour("LNS-PAG-01")
@pytest.mark.parametrize("owned_by", ["anybody", "one", "current"])
def test_every_list_ascends_strictly(owned_by: str) -> None:
    masks = [0, NS.ALL, *NS, *(one | other for one, other in combinations(NS, 2))]
    with holding_together(NS.USER | NS.UTS | NS.IPC) as held, holding(NS.UTS, NS.IPC):
        owners = {"anybody": 0, "one": held[NS.USER].id, "current": LISTNS_CURRENT_USER}
        for mask in masks:
            listed = list_page(ListRequest(mask, owners[owned_by]))
            assert listed == sorted(set(listed) - {0}), f"types {mask:#x}"


@pytest.mark.behaviour("LNS-PAG-02")
def test_pages_of_any_size_give_the_whole_list() -> None:
    with holding(*[NS.UTS, NS.IPC] * 14) as held:
        wait_for_removals()
        one_shot, *paged = undisturbed(_in_pages)
    assert set(_ids(held)) < set(one_shot)
    assert paged == [one_shot] * len(paged)


@pytest.mark.behaviour("LNS-PAG-03")
def test_pages_of_any_size_give_the_list_of_each_type() -> None:
    kinds = _types(NS.USER, NS.NET)
    with holding(*kinds, *kinds) as held:
        wait_for_removals()
        by_type = undisturbed(lambda: {kind: _in_pages(kind) for kind in NS})
    for kind, one in zip(kinds * 2, held, strict=True):
        assert one.id in by_type[kind][0]
    for kind, (one_shot, *paged) in by_type.items():
        assert paged == [one_shot] * len(paged), kind


@pytest.mark.behaviour("LNS-PAG-03")
@pytest.mark.parametrize("types", [NS.UTS | NS.IPC, NS.ALL & ~NS.UTS], ids=["two", "seven"])
def test_pages_of_any_size_give_the_list_of_several_types(types: NS) -> None:
    with holding(*[NS.UTS, NS.IPC] * 4) as held:
        wait_for_removals()
        one_shot, *paged = undisturbed(lambda: _in_pages(types))
    assert {one.id for one in held[1::2]} < set(one_shot)
    assert paged == [one_shot] * len(paged)


@pytest.mark.behaviour("LNS-PAG-03", "LNS-PAG-24")
def test_pages_of_any_size_give_the_list_of_an_owner() -> None:
    kinds = _types(NS.NET)
    with holding_together(NS(sum(kinds))) as held:
        owner, *own = sorted(_ids(held.values()))
        assert _in_pages(owner=owner) == [own] * (len(own) + 2)
        two = sorted([held[NS.UTS].id, held[NS.IPC].id])
        assert _in_pages(NS.UTS | NS.IPC, owner) == [two] * 4


@pytest.mark.behaviour("LNS-PAG-24")
def test_list_of_an_owner_restarts_at_any_cursor() -> None:
    with holding_together(NS.USER | NS.MNT | NS.UTS | NS.IPC) as held:
        owner, *own = sorted(_ids(held.values()))
        for cursor in (*range(9), owner - 1, owner, *own):
            for nr in range(1, len(own) + 2):
                request = ListRequest(owner=owner, cursor=cursor)
                assert _rest(request, nr) == [one for one in own if one > cursor]


@pytest.mark.behaviour("LNS-PAG-04")
@pytest.mark.parametrize("types", [NS.NONE, NS.UTS, NS.UTS | NS.IPC], ids=["any", "one", "two"])
def test_second_page_starts_above_the_first(types: NS) -> None:
    with holding(NS.UTS, NS.UTS, NS.UTS, NS.UTS) as held:
        ids = _ids(held)
        request = ListRequest(types, cursor=ids[0] - 1)
        first = list_page(request, 2)
        second = list_page(replace(request, cursor=first[-1]), 2)
    assert [first, second] == [ids[:2], ids[2:]]


@pytest.mark.behaviour("LNS-PAG-05")
def test_list_goes_on_with_the_next_higher_id() -> None:
    with holding(*_types(NS.USER, NS.NET)):
        wait_for_removals()
        listed, from_below, from_it = undisturbed(_neighbours)
    assert from_below == listed
    assert from_it == [*listed[1:], None]


def _neighbours() -> tuple[list[int], list[int | None], list[int | None]]:
    """The whole list; what follows on a cursor one below each id; and on the id itself."""
    listed = list_all()
    return listed, [_next(one - 1) for one in listed], [_next(one) for one in listed]


@pytest.mark.behaviour("LNS-PAG-06")
def test_cursor_can_be_a_namespace_that_has_ended() -> None:
    for kind in _types(NS.USER):
        ended = _ended(kind)
        with holding(kind) as [later]:
            for types in (0, kind, kind ^ NS.UTS ^ NS.IPC):
                assert list_page(ListRequest(types, cursor=ended))[0] == later.id, kind


@pytest.mark.behaviour("LNS-PAG-07")
def test_cursor_can_be_an_id_that_never_was() -> None:
    with holding(NS.UTS, NS.IPC) as held:
        wait_for_removals()
        listed, above = undisturbed(
            lambda: (list_all(), list_page(ListRequest(cursor=NEVER_AN_ID)))
        )
    assert set(_ids(held)) <= set(above)
    assert above == [one for one in listed if one > NEVER_AN_ID]


@pytest.mark.behaviour("LNS-PAG-07")
@pytest.mark.parametrize("types", [NS.NONE, NS.UTS, NS.UTS | NS.IPC], ids=["any", "one", "two"])
def test_cursor_can_be_anywhere_in_a_gap(types: NS) -> None:
    with holding(NS.UTS) as [below]:
        gap = [_ended(NS.UTS) for _ in range(3)]
        with holding(NS.UTS) as [above]:
            for cursor in (below.id, *gap):
                assert list_page(ListRequest(types, cursor=cursor)) == [above.id]


@pytest.mark.behaviour("LNS-PAG-08")
def test_cursor_can_be_of_another_type_than_the_list() -> None:
    kinds = _types(NS.USER, NS.NET) * 2
    with holding(*kinds) as held:
        for cursor in _ids(held):
            for kind in NS:
                above = [one.id for one, its in zip(held, kinds) if its == kind]
                rest = _rest(ListRequest(kind, cursor=cursor))
                assert rest == [one for one in above if one > cursor], (kind, cursor)


@pytest.mark.behaviour("LNS-PAG-08")
def test_cursor_can_be_an_initial_namespace_of_another_type() -> None:
    for kind in configured_types():
        initial = INITIAL_IDS[kind]
        for cursor in INITIAL_IDS.values():
            assert (_next(cursor, kind) == initial) == (cursor < initial), (kind, cursor)


@pytest.mark.behaviour("LNS-PAG-09")
def test_cursor_can_be_of_another_owner_than_the_list() -> None:
    with Task(NS.USER | NS.UTS) as task, holding(NS.UTS) as [foreign]:
        owner, first = ns_id(NS.USER, task.pid), ns_id(NS.UTS, task.pid)
        second = task.call(hold, NS.UTS).id
        request = ListRequest(owner=owner)
        for cursor in (ns_id(NS.USER), owner - 1, owner):
            assert list_page(replace(request, cursor=cursor)) == [first, second]
        assert first < foreign.id < second
        assert list_page(replace(request, cursor=foreign.id)) == [second]


@pytest.mark.behaviour("LNS-PAG-10")
@pytest.mark.parametrize("types", [NS.NONE, NS.IPC, NS.IPC | NS.UTS], ids=["any", "one", "two"])
def test_short_page_is_the_last(types: NS) -> None:
    with holding(NS.IPC) as [below], owned(hold_inactive().fd), holding(NS.IPC) as [above]:
        request = ListRequest(types, cursor=below.id - 1)
        assert list_page(request, 3) == [below.id, above.id]
        assert _rest(replace(request, cursor=above.id)) == []


@pytest.mark.behaviour("LNS-PAG-11")
@pytest.mark.parametrize("types", [NS.NONE, NS.UTS, NS.UTS | NS.IPC], ids=["any", "one", "two"])
def test_cursor_above_all_is_refused(types: NS) -> None:
    with holding(NS.UTS) as [newest]:
        request = ListRequest(types, cursor=newest.id)
        assert errno_of(list_page, request) == ENOENT
        assert errno_of(list_page, replace(request, owner=ns_id(NS.USER))) == ENOENT


@pytest.mark.behaviour("LNS-PAG-11")
@pytest.mark.parametrize("types", [NS.NONE, NS.IPC], ids=["any", "one"])
def test_cursor_below_an_inactive_namespace_gives_an_empty_list(types: NS) -> None:
    with holding(NS.IPC) as [newest_active], owned(hold_inactive().fd):
        assert list_page(ListRequest(types, cursor=newest_active.id)) == []


@pytest.mark.behaviour("LNS-PAG-11")
def test_cursor_below_an_invisible_namespace_gives_an_empty_list() -> None:
    with Task(NS.UTS, uid=SOMEBODY) as task, holding(NS.UTS):
        newest_visible = ns_id(NS.UTS, task.pid)
        for types in (NS.NONE, NS.UTS):
            assert task.call(list_page, ListRequest(types, cursor=newest_visible)) == []


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
@pytest.mark.parametrize("types", [NS.NONE, NS.IPC, NS.IPC | NS.UTS], ids=["any", "one", "two"])
def test_inactive_namespaces_behind_the_cursor_are_skipped(types: NS) -> None:
    with (
        holding(NS.IPC) as [below],
        owned(hold_inactive().fd),
        owned(hold_inactive().fd),
        holding(NS.IPC) as [above],
    ):
        assert list_page(ListRequest(types, cursor=below.id)) == [above.id]


@pytest.mark.behaviour("LNS-PAG-14")
@pytest.mark.parametrize("types", [NS.NONE, NS.IPC], ids=["any", "one"])
def test_inactive_namespace_behind_the_cursor_is_skipped_among_those_of_an_owner(types: NS) -> None:
    with Task(NS.USER | NS.IPC) as task:
        task.call(hold_inactive)
        above = task.call(hold, NS.IPC).id
        request = ListRequest(types, ns_id(NS.USER, task.pid), cursor=ns_id(NS.IPC, task.pid))
        assert list_page(request) == [above]


@pytest.mark.behaviour("LNS-PAG-15")
def test_inactive_namespace_is_skipped_at_the_start_of_those_of_an_owner() -> None:
    with Task(NS.USER) as task:
        inactive = task.call(_leave_inactive_ipc_ns)
        current = ns_id(NS.IPC, task.pid)
        assert inactive < current
        assert list_page(ListRequest(owner=ns_id(NS.USER, task.pid))) == [current]


def _leave_inactive_ipc_ns() -> int:
    """Move from a new ipc namespace, of which an open file remains, to another; returns its id.

    Unlike hold_inactive() it works where the caller has no right to return to where it was.
    """
    unshare(NS.IPC)
    os.open("/proc/sysvipc/msg", os.O_RDONLY)
    left = ns_id(NS.IPC)
    unshare(NS.IPC)
    return left


@pytest.mark.behaviour("LNS-PAG-16")
def test_namespace_made_between_two_pages_is_on_the_second() -> None:
    with holding(NS.UTS) as [start]:
        cursor = start.id
        for kind in _types(NS.USER):
            with holding(kind) as [newcomer]:
                assert list_page(ListRequest(cursor=cursor), 1) == [newcomer.id], kind
            cursor = newcomer.id


@pytest.mark.behaviour("LNS-PAG-17")
def test_namespace_that_ended_between_two_pages_is_not_on_the_second() -> None:
    with holding(NS.UTS, NS.UTS) as [first, second]:
        with holding(*_types(NS.USER)) as ending, holding(NS.UTS) as [last]:
            request = ListRequest(cursor=first.id - 1)
            assert list_page(request, 1) == [first.id]
            assert set(_ids(ending)) < set(list_all())
        assert list_page(replace(request, cursor=first.id)) == [second.id, last.id]


@pytest.mark.behaviour("LNS-PAG-20")
@pytest.mark.parametrize("nr", [1, 2, 3, 5])
def test_reading_ends_though_every_page_makes_a_namespace(nr: int) -> None:
    there, newcomers = 7, 6
    with holding(*[NS.UTS] * there) as held:
        seen = []
        pages = 0
        for page in iterate_pages(ListRequest(cursor=held[0].id - 1), nr):
            pages += 1


@pytest.mark.behaviour("LNS-PAG-22")
@pytest.mark.deadline(30)
def test_many_namespaces() -> None:
    ...


@pytest.mark.behaviour("LNS-PAG-23")
def test_whole_list_is_the_merge_of_the_lists_of_the_types() -> None:
    with holding(*_types(NS.USER, NS.NET) * 2) as held:
        whole, merged = undisturbed(_whole_and_merged)
    assert set(_ids(held)) < set(whole)
    assert merged == whole
