# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): filtering by owner, the user namespace in which a namespace was made."""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import pytest
from nslib import (
    INITIAL_IDS,
    LISTNS_CURRENT_USER,
    NS,
    ListRequest,
    Task,
    configured_types,
    hold,
    holding,
    holding_together,
    id_of,
    ids_of,
    list_all,
    list_page,
    ns_id,
    open_id,
    open_ns,
    owned,
    owner_id_of,
    pinned,
    release,
    setns,
    undisturbed,
    unshare,
)

pytestmark = pytest.mark.needs("listns", "uts_ns", "ipc_ns", "user_ns")

INITIAL_USER_NS = INITIAL_IDS[NS.USER]


class Nested(NamedTuple):
    """Ids of a user namespace, which owns `uts` and `inner`, a user namespace, which owns `ipc`."""

    outer: int
    uts: int
    inner: int
    ipc: int


@pytest.fixture
def nested() -> Iterator[Nested]:
    """Two levels of user namespaces with what they own."""
    with Task(NS.USER | NS.UTS) as task:
        outer, uts = ns_id(NS.USER, task.pid), ns_id(NS.UTS, task.pid)
        task.call(unshare, NS.USER | NS.IPC)
        yield Nested(outer, uts, ns_id(NS.USER, task.pid), ns_id(NS.IPC, task.pid))


def list_by_owner() -> dict[int, list[int]]:
    """The list of what each user namespace owns."""
    return {owner: list_all(owner=owner) for owner in list_all(NS.USER)}


@pytest.mark.behaviour("LNS-FLT-05")
def test_list_of_an_owner_has_what_it_owns_directly(nested: Nested) -> None:
    assert list_all(owner=nested.outer) == [nested.uts, nested.inner]
    assert list_all(owner=nested.inner) == [nested.ipc]


@pytest.mark.behaviour("LNS-FLT-06")
def test_user_namespace_is_owned_by_its_parent_and_not_by_itself(nested: Nested) -> None:
    owners = undisturbed(list_by_owner)
    for user, parent in {nested.outer: INITIAL_USER_NS, nested.inner: nested.outer}.items():
        assert [owner for owner, listed in owners.items() if user in listed] == [parent]


@pytest.mark.behaviour("LNS-FLT-07")
def test_initial_user_namespace_owns_all_initial_ones_but_itself() -> None:
    initial = sorted(INITIAL_IDS[kind] for kind in configured_types(NS.USER))
    with holding(*configured_types()) as held:
        listed = list_all(owner=INITIAL_USER_NS)
    assert listed[: len(initial)] == initial
    assert [one for one in listed if one >= held[0].id] == ids_of(held)
    assert INITIAL_USER_NS not in listed


@pytest.mark.behaviour("LNS-FLT-08")
def test_every_namespace_but_the_initial_user_one_has_one_owner(nested: Nested) -> None:
    listed, by_owner = undisturbed(lambda: (list_all(), list_by_owner()))
    assert set(nested) < set(listed)
    assert sorted([INITIAL_USER_NS, *chain(*by_owner.values())]) == listed


@pytest.mark.behaviour("LNS-FLT-09")
def test_current_user_is_the_initial_one_for_the_real_root() -> None:
    with holding(NS.UTS) as [held]:
        owners = (LISTNS_CURRENT_USER, INITIAL_USER_NS)
        current, initial = undisturbed(lambda: [list_all(owner=owner) for owner in owners])
    assert held.id in current
    assert current == initial


@pytest.mark.behaviour("LNS-FLT-09")
def test_current_user_is_that_of_the_caller() -> None:
    with Task(NS.USER | NS.UTS | NS.IPC) as task:
        own = sorted([ns_id(NS.UTS, task.pid), ns_id(NS.IPC, task.pid)])
        for owner in (LISTNS_CURRENT_USER, ns_id(NS.USER, task.pid)):
            assert task.call(list_all, owner=owner) == own


@pytest.mark.behaviour("LNS-FLT-10")
def test_current_user_changes_with_unshare() -> None:
    with Task() as task:
        before = task.call(list_all, owner=LISTNS_CURRENT_USER)
        task.call(unshare, NS.USER | NS.UTS)
        after = task.call(list_all, owner=LISTNS_CURRENT_USER)
        assert INITIAL_IDS[NS.UTS] in before
        assert after == [ns_id(NS.UTS, task.pid)]


@pytest.mark.behaviour("LNS-FLT-10")
def test_current_user_changes_with_setns() -> None:
    kinds = NS.USER | NS.UTS
    with holding_together(kinds) as held, Task(keep_fds=[one.fd for one in held.values()]) as task:
        task.call(_join, held[NS.USER].fd, held[NS.UTS].fd)
        assert task.call(list_all, owner=LISTNS_CURRENT_USER) == [held[NS.UTS].id]


def _join(*fds: int) -> None:
    for fd in fds:
        setns(fd)


@pytest.mark.behaviour("LNS-FLT-11")
def test_filters_by_owner_and_by_type_intersect() -> None:
    with Task(NS.USER | NS.UTS | NS.IPC) as task:
        owner = ns_id(NS.USER, task.pid)
        child = task.call(hold, NS.USER).id
        uts, ipc = ns_id(NS.UTS, task.pid), ns_id(NS.IPC, task.pid)
        expected = {
            NS.UTS: [uts],
            NS.IPC: [ipc],
            NS.USER: [child],
            NS.NET: [],
            NS.NET | NS.UTS: [uts],
            NS.USER | NS.IPC: [ipc, child],
            NS.ALL & ~NS.UTS: [ipc, child],
            NS.ALL: [uts, ipc, child],
        }
        assert {types: list_page(ListRequest(types, owner)) for types in expected} == expected


@pytest.mark.behaviour("LNS-FLT-12")
def test_list_of_an_owner_of_nothing_is_empty() -> None:
    with holding(NS.USER) as [owner]:
        assert list_page(ListRequest(owner=owner.id)) == []


@pytest.mark.behaviour("LNS-FLT-12")
def test_list_of_an_owner_of_nothing_active_is_empty() -> None:
    with Task(NS.USER | NS.IPC) as task, owned(open_ns(NS.USER, task.pid)) as owner:
        request = ListRequest(owner=id_of(owner))
        with pinned(task, NS.IPC):
            assert list_page(request) == [ns_id(NS.IPC, task.pid)]
            task.reap()
            assert list_page(request) == []


@pytest.mark.behaviour("LNS-FLT-13")
def test_owner_is_the_user_namespace_made_by_the_same_call() -> None:
    with Task() as task:
        task.call(unshare, NS.USER | NS.UTS)
        with owned(open_ns(NS.UTS, task.pid)) as uts:
            assert owner_id_of(uts) == ns_id(NS.USER, task.pid)
            assert list_all(owner=ns_id(NS.USER, task.pid)) == [id_of(uts)]


@pytest.mark.behaviour("LNS-FLT-13")
def test_owner_is_not_a_user_namespace_made_by_a_later_call() -> None:
    with Task(NS.UTS) as task:
        task.call(unshare, NS.USER)
        with owned(open_ns(NS.UTS, task.pid)) as uts:
            assert owner_id_of(uts) == INITIAL_USER_NS
            assert id_of(uts) in list_all(owner=INITIAL_USER_NS)
            assert list_all(owner=ns_id(NS.USER, task.pid)) == []


@pytest.mark.behaviour("LNS-FLT-14")
def test_owner_is_not_changed_by_a_member_of_another_user_namespace() -> None:
    with Task() as task:
        with holding_together(NS.USER | NS.UTS) as held:
            owner, uts = held[NS.USER].id, held[NS.UTS].id
            task.call(setns, task.give(held[NS.UTS].fd))
        assert ns_id(NS.UTS, task.pid) == uts
        assert list_all(owner=owner) == [uts]
        assert uts not in list_all(owner=INITIAL_USER_NS)


@pytest.mark.behaviour("LNS-FLT-15")
def test_owner_is_the_one_that_nsfs_tells(nested: Nested) -> None:
    by_owner, told = undisturbed(lambda: (list_by_owner(), _owners_told_by_nsfs()))
    assert {nested.outer, nested.inner} < set(by_owner)
    assert {one: owner for owner, listed in by_owner.items() for one in listed} == told


def _owners_told_by_nsfs() -> dict[int, int]:
    """Owner of every listed namespace but the initial user one, by NS_GET_USERNS."""
    return {one: _owner_of_id(one) for one in list_all() if one != INITIAL_USER_NS}


def _owner_of_id(one: int) -> int:
    with owned(open_id(one)) as fd:
        return owner_id_of(fd)


@pytest.mark.behaviour("LNS-FLT-18")
def test_end_of_what_one_owns_leaves_the_list_of_another() -> None:
    with Task(NS.USER | NS.IPC) as one, Task(NS.USER | NS.IPC) as other:
        ended = one.call(hold, NS.IPC)
        kept = [ns_id(NS.IPC, other.pid), other.call(hold, NS.IPC).id]
        assert kept[0] < ended.id < kept[1]
        owner = ns_id(NS.USER, other.pid)
        one.call(release, [ended])
        assert list_all(owner=owner) == kept
        assert list_all(owner=ns_id(NS.USER, one.pid)) == [ns_id(NS.IPC, one.pid)]
        one.reap()
        assert list_all(owner=owner) == kept
