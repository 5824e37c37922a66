# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): the order of a list, and its pages.

Where a scene is not the whole system its cursor lies directly below what the scene has made: then
no list ends early for another reason, before 7.3.4 for an inactive namespace of an earlier test.
"""

import heapq
import resource
from dataclasses import replace
from itertools import combinations

import pytest
from nslib import (
    LISTNS_CURRENT_USER,
    NS,
    ListRequest,
    Task,
    configured_types,
    hold_each,
    hold_inactive,
    holding,
    holding_together,
    id_of,
    ids_of,
    list_all,
    list_page,
    open_ns,
    owned,
    release,
    undisturbed,
    unshare,
    wait_for_removals,
)

pytestmark = pytest.mark.needs("listns", "uts_ns", "ipc_ns")


def in_pages(types: int = 0, owner: int = 0) -> list[list[int]]:
    """A list in one call, then by pages of each size from 1 to its length plus one."""
    one_shot = list_page(ListRequest(types, owner))
    return [one_shot, *(list_all(types, owner, nr) for nr in range(1, len(one_shot) + 2))]


@pytest.mark.behaviour("LNS-PAG-01")
@pytest.mark.needs("user_ns")
def test_every_list_ascends_strictly() -> None:
    masks = [0, NS.ALL, *NS, *(one | other for one, other in combinations(NS, 2))]
    with holding_together(NS.USER | NS.UTS | NS.IPC) as held, holding(NS.UTS, NS.IPC):
        for owner in (0, held[NS.USER].id, LISTNS_CURRENT_USER):
            for mask in masks:
                listed = list_page(ListRequest(mask, owner))
                assert listed == sorted(set(listed) - {0}), (owner, hex(mask))


@pytest.mark.behaviour("LNS-PAG-02")
def test_pages_of_any_size_give_the_whole_list() -> None:
    with holding(*[NS.UTS, NS.IPC] * 14) as held:
        wait_for_removals()
        one_shot, *paged = undisturbed(in_pages)
    assert set(ids_of(held)) < set(one_shot)
    assert paged == [one_shot] * len(paged)


@pytest.mark.behaviour("LNS-PAG-03")
def test_pages_of_any_size_give_the_list_of_each_type() -> None:
    kinds = configured_types(NS.USER, NS.NET) * 2
    with holding(*kinds) as held:
        wait_for_removals()
        by_type = undisturbed(lambda: {kind: in_pages(kind) for kind in NS})
    for kind, one in zip(kinds, held, strict=True):
        assert one.id in by_type[kind][0]
    for kind, (one_shot, *paged) in by_type.items():
        assert paged == [one_shot] * len(paged), kind


@pytest.mark.behaviour("LNS-PAG-03")
def test_pages_of_any_size_give_the_list_of_several_types() -> None:
    masks = [NS.UTS | NS.IPC, NS.ALL & ~NS.UTS]
    with holding(*[NS.UTS, NS.IPC] * 4) as held:
        wait_for_removals()
        by_mask = undisturbed(lambda: {mask: in_pages(mask) for mask in masks})
    for mask, (one_shot, *paged) in by_mask.items():
        assert {one.id for one in held[1::2]} < set(one_shot)
        assert paged == [one_shot] * len(paged), mask


@pytest.mark.behaviour("LNS-PAG-03", "LNS-PAG-24")
@pytest.mark.needs("user_ns")
def test_pages_of_any_size_give_the_list_of_an_owner() -> None:
    kinds = configured_types(NS.NET)
    with holding_together(NS(sum(kinds))) as held:
        owner, *own = sorted(ids_of(held.values()))
        assert in_pages(owner=owner) == [own] * (len(own) + 2)
        two = sorted([held[NS.UTS].id, held[NS.IPC].id])
        assert in_pages(NS.UTS | NS.IPC, owner) == [two] * 4


@pytest.mark.behaviour("LNS-PAG-24")
@pytest.mark.needs("user_ns")
def test_list_of_an_owner_restarts_at_any_cursor() -> None:
    with holding_together(NS.USER | NS.MNT | NS.UTS | NS.IPC) as held:
        owner, *own = sorted(ids_of(held.values()))
        for cursor in (*range(9), owner - 1, owner, *own):
            for nr in range(1, len(own) + 2):
                rest = list_all(owner=owner, page_size=nr, cursor=cursor)
                assert rest == [one for one in own if one > cursor], (cursor, nr)


@pytest.mark.behaviour("LNS-PAG-04")
def test_second_page_starts_above_the_first() -> None:
    with holding(NS.UTS, NS.UTS, NS.UTS, NS.UTS) as held:
        ids = ids_of(held)
        for types in (NS.NONE, NS.UTS, NS.UTS | NS.IPC):
            request = ListRequest(types, cursor=ids[0] - 1)
            first = list_page(request, 2)
            second = list_page(replace(request, cursor=first[-1]), 2)
            assert [first, second] == [ids[:2], ids[2:]], types


@pytest.mark.behaviour("LNS-PAG-10")
def test_short_page_is_the_last() -> None:
    with holding(NS.IPC) as [below], owned(hold_inactive().fd), holding(NS.IPC) as [above]:
        for types in (NS.NONE, NS.IPC, NS.UTS | NS.IPC):
            request = ListRequest(types, cursor=below.id - 1)
            assert list_page(request, 3) == [below.id, above.id], types
            assert list_all(types, cursor=above.id) == [], types


@pytest.mark.behaviour("LNS-PAG-16")
def test_namespace_made_between_two_pages_is_on_the_second() -> None:
    with holding(NS.UTS) as [start]:
        cursor = start.id
        for kind in configured_types(NS.USER):
            with holding(kind) as [newcomer]:
                assert list_page(ListRequest(cursor=cursor), 1) == [newcomer.id], kind
            cursor = newcomer.id


@pytest.mark.behaviour("LNS-PAG-17")
def test_namespace_that_ended_between_two_pages_is_not_on_the_second() -> None:
    with holding(NS.UTS, NS.UTS) as [first, second]:
        ending = hold_each(configured_types(NS.USER))
        with holding(NS.UTS) as [last]:
            request = ListRequest(cursor=first.id - 1)
            assert list_page(request, 1) == [first.id]
            assert list_page(replace(request, cursor=second.id)) == [*ids_of(ending), last.id]
            release(ending)
            assert list_page(replace(request, cursor=first.id)) == [second.id, last.id]


@pytest.mark.behaviour("LNS-PAG-22")
@pytest.mark.deadline(30)
def test_many_namespaces_fit_one_call() -> None:
    with Task() as task:
        ids = task.call(_hold_many, 1500)
        request = ListRequest()
        one_shot, paged = undisturbed(lambda: (list_page(request, 4096), list_all(page_size=100)))
    ours = set(ids)
    assert [one for one in one_shot if one in ours] == ids
    assert paged == one_shot


def _hold_many(count: int) -> list[int]:
    """Make that many uts namespaces, all of which the calling task keeps; gives their ids."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ids = []
    for _ in range(count):
        unshare(NS.UTS)
        ids.append(id_of(open_ns(NS.UTS)))
    return ids


@pytest.mark.behaviour("LNS-PAG-23")
def test_whole_list_is_the_merge_of_the_lists_of_the_types() -> None:
    with holding(*configured_types(NS.USER, NS.NET) * 2) as held:
        whole, *by_type = undisturbed(lambda: [list_all(types) for types in (NS.NONE, *NS)])
    assert set(ids_of(held)) < set(whole)
    assert list(heapq.merge(*by_type)) == whole
