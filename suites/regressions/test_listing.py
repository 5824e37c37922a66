# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): bugs of kernels that were released, or nearly so."""

from collections.abc import Iterator
from errno import ENOENT
from itertools import product

import pytest
from nslib import (
    LISTNS_CURRENT_USER,
    NS,
    ListRequest,
    errno_of,
    hold_inactive,
    holding,
    holding_together,
    ids_of,
    list_all,
    list_page,
    ns_id,
    owned,
)

pytestmark = pytest.mark.needs("listns", "uts_ns", "ipc_ns", "user_ns")

LARGEST = 2**64 - 1


@pytest.mark.behaviour("REG-01")
def test_cursor_of_another_type_is_looked_up_in_the_right_tree() -> None:
    with holding_together(NS.ALL) as some, holding(NS.UTS, NS.IPC, NS.MNT, NS.CGROUP) as more:
        types = {one.id: kind for kind, one in some.items()}
        types |= dict(zip(ids_of(more), (NS.UTS, NS.IPC, NS.MNT, NS.CGROUP), strict=True))
        cursors = range(min(types) - 2, max(types) + 2)
        for kind in NS:
            for cursor in cursors:
                listed = set(list_all(kind, cursor=cursor)) & types.keys()
                expected = {one for one in types if one > cursor and types[one] == kind}
                assert listed == expected, (kind, cursor)


@pytest.mark.behaviour("REG-01")
def test_cursor_of_another_type_is_looked_up_in_the_tree_of_the_owner() -> None:
    with holding_together(NS.USER | NS.UTS | NS.IPC | NS.NET) as some:
        owner, last = some[NS.USER].id, max(one.id for one in some.values())
        types = {one.id: kind for kind, one in some.items() if kind != NS.USER}
        for kind in NS:
            for cursor in range(owner - 1, last):
                listed = list_all(kind, owner, cursor=cursor)
                assert listed == [one for one in types if one > cursor and types[one] == kind]


@pytest.fixture
def around_inactive() -> Iterator[tuple[int, int]]:
    """Two ipc namespaces with an inactive one between them."""
    with holding(NS.IPC) as [before], owned(hold_inactive().fd), holding(NS.IPC) as [after]:
        yield before.id, after.id


@pytest.mark.behaviour("REG-06")
def test_inactive_namespace_does_not_end_the_list(around_inactive: tuple[int, int]) -> None:
    before, after = around_inactive
    for owner, types in product((0, ns_id(NS.USER)), (0, NS.IPC, NS.IPC | NS.UTS)):
        for cursor in range(before, after):
            assert after in list_page(ListRequest(types, owner, cursor)), (owner, cursor)
        assert after in list_all(types, owner, page_size=1, cursor=before - 1)


@pytest.mark.behaviour("REG-07")
def test_largest_cursor_does_not_restart_the_list() -> None:
    for owner, types in product((0, LISTNS_CURRENT_USER), (0, NS.UTS, NS.UTS | NS.IPC)):
        request = ListRequest(types, owner, LARGEST)
        assert errno_of(list_page, request) == ENOENT
