# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): which owners and cursors are valid, and what the others are answered."""

from errno import EINVAL, ENOENT

import pytest
from nslib import (
    BEYOND_ALL_IDS,
    INITIAL_IDS,
    LISTNS_CURRENT_USER,
    NEVER_AN_ID,
    NS,
    ListRequest,
    Task,
    errno_of,
    holding,
    list_page,
    ns_id,
    open_of_socket,
    owned,
    pinned,
)

pytestmark = pytest.mark.needs("listns")

LARGEST = 2**64 - 1
INITIAL_USER_NS = INITIAL_IDS[NS.USER]


def errno_with_owner(owner: int, cursor: int = 0) -> int:
    """The errno of a request for what `owner` owns, 0 if it succeeds."""
    return errno_of(list_page, ListRequest(owner=owner, cursor=cursor))


@pytest.mark.behaviour("LNS-ARG-28")
def test_owner_that_never_existed_is_invalid() -> None:
    with holding(NS.UTS) as [newest]:
        owners = [NEVER_AN_ID, newest.id + 1_000_000, LISTNS_CURRENT_USER - 1]
        refused = {owner: errno_with_owner(owner) for owner in owners}
    assert refused == dict.fromkeys(owners, EINVAL)


@pytest.mark.behaviour("LNS-ARG-29")
def test_owner_that_is_no_user_namespace_is_invalid() -> None:
    with holding(NS.UTS, NS.NET) as held:
        owners = {*INITIAL_IDS.values(), *(ns.id for ns in held)} - {INITIAL_USER_NS}
        refused = {owner: errno_with_owner(owner) for owner in owners}
    assert refused == dict.fromkeys(owners, EINVAL)


@pytest.mark.behaviour("LNS-ARG-30")
def test_owner_is_invalid_once_it_is_inactive() -> None:
    with Task(NS.USER) as task, pinned(task, NS.USER):
        owner = ns_id(NS.USER, task.pid)
        assert errno_with_owner(owner) == 0
        task.reap()
        assert errno_with_owner(owner) == EINVAL


@pytest.mark.behaviour("LNS-ARG-30")
def test_owner_is_invalid_once_it_is_destroyed() -> None:
    with holding(NS.USER) as [user]:
        assert errno_with_owner(user.id) == 0
    assert errno_with_owner(user.id) == EINVAL


@pytest.mark.behaviour("LNS-ARG-30")
def test_owner_is_valid_again_once_it_is_resurrected() -> None:
    with Task(NS.USER | NS.NET) as task, pinned(task, NS.NET) as socket:
        owner, net = ns_id(NS.USER, task.pid), ns_id(NS.NET, task.pid)
        task.reap()
        assert errno_with_owner(owner) == EINVAL
        with owned(open_of_socket(socket)):
            assert list_page(ListRequest(owner=owner)) == [net]
        assert errno_with_owner(owner) == EINVAL


@pytest.mark.behaviour("LNS-ARG-31")
def test_invalid_owner_counts_before_the_cursor() -> None:
    for cursor in (BEYOND_ALL_IDS, LARGEST):
        assert errno_with_owner(NEVER_AN_ID, cursor) == EINVAL


@pytest.mark.behaviour("LNS-ARG-32")
def test_nothing_is_found_beyond_all_ids() -> None:
    types = [*NS, NS.NONE, NS.ALL, NS.UTS | NS.IPC]
    requests = [
        ListRequest(kind, owner, cursor)
        for kind in types
        for owner in (0, INITIAL_USER_NS, LISTNS_CURRENT_USER)
        for cursor in (BEYOND_ALL_IDS, LARGEST - 1)
    ]
    found = {request: errno_of(list_page, request) for request in requests}
    assert found == dict.fromkeys(requests, ENOENT)


@pytest.mark.behaviour("LNS-ARG-32")
def test_nothing_is_found_beyond_the_newest_id() -> None:
    # Time namespaces: hardly anything else makes them, so that no newer one comes in between.
    with holding(NS.TIME) as [newest]:
        assert list_page(ListRequest(NS.TIME, cursor=newest.id - 1)) == [newest.id]
        assert errno_of(list_page, ListRequest(NS.TIME, cursor=newest.id)) == ENOENT


@pytest.mark.behaviour("LNS-ARG-33")
def test_nothing_is_found_beyond_the_largest_number() -> None:
    types = [NS.NONE, NS.ALL, *NS]
    found = {kind: errno_of(list_page, ListRequest(kind, cursor=LARGEST)) for kind in types}
    assert found == dict.fromkeys(types, ENOENT)


@pytest.mark.behaviour("LNS-ARG-34")
def test_owner_has_nothing_beyond_the_largest_number() -> None:
    owners = [INITIAL_USER_NS, LISTNS_CURRENT_USER]
    found = {owner: errno_with_owner(owner, LARGEST) for owner in owners}
    assert found == dict.fromkeys(owners, ENOENT)
