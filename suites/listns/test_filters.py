# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): filtering by type, and what of each type is listed at all."""

from collections.abc import Callable
from itertools import chain, combinations

import pytest
from nslib import (
    AT_FDCWD,
    INITIAL_IDS,
    NS,
    OPEN_TREE_CLONE,
    ListRequest,
    PidfdGet,
    Task,
    configured_types,
    detached_mount,
    holding,
    id_of,
    ids_of,
    list_all,
    list_page,
    ns_id,
    open_id,
    open_of_pidfd,
    open_tree,
    owned,
    type_of,
    undisturbed,
    unshare,
)

pytestmark = pytest.mark.needs("listns", "uts_ns", "ipc_ns")


def list_by_type() -> dict[NS, list[int]]:
    """The list of each type."""
    return {kind: list_all(kind) for kind in NS}


@pytest.mark.behaviour("LNS-FLT-01")
def test_list_of_a_type_has_all_of_that_type_and_no_other() -> None:
    kinds = configured_types()
    with holding(*kinds) as held:
        types, by_type = undisturbed(lambda: (_types_of_all(), list_by_type()))
    assert [types[one.id] for one in held] == kinds
    assert by_type == {kind: [one for one, its in types.items() if its == kind] for kind in NS}


def _types_of_all() -> dict[int, NS]:
    """Type of every listed namespace as nsfs knows it."""
    return {one: _type_of_id(one) for one in list_all()}


def _type_of_id(one: int) -> NS:
    with owned(open_id(one)) as fd:
        return type_of(fd)


@pytest.mark.behaviour("LNS-FLT-02")
def test_all_types_are_the_same_as_none() -> None:
    with holding(*configured_types(NS.USER, NS.NET)) as held:
        unfiltered, all_types, by_type = undisturbed(
            lambda: (list_all(), list_all(NS.ALL), list_by_type())
        )
    assert set(ids_of(held)) < set(unfiltered)
    assert all_types == unfiltered
    assert sorted(chain(*by_type.values())) == unfiltered


@pytest.mark.behaviour("LNS-FLT-03", "LNS-PAG-01")
def test_list_of_several_types_is_the_union_of_the_lists_of_each() -> None:
    with holding(*configured_types(NS.USER, NS.NET)) as held:
        by_type, by_types = undisturbed(lambda: (list_by_type(), _list_by_types()))
    assert all(one.id in chain(*by_type.values()) for one in held)
    assert len(by_types) == 255
    for types, listed in by_types.items():
        assert listed == sorted(chain(*(by_type[kind] for kind in types))), types


def _list_by_types() -> dict[tuple[NS, ...], list[int]]:
    """The list of every combination of types."""
    masks = chain(*(combinations(NS, count) for count in range(1, len(NS) + 1)))
    return {types: list_all(sum(types)) for types in masks}


@pytest.mark.behaviour("LNS-FLT-04")
def test_initial_namespace_is_the_first_of_its_type() -> None:
    first = {kind: list_page(ListRequest(kind), 1) for kind in configured_types()}
    assert first == {kind: [INITIAL_IDS[kind]] for kind in first}


@pytest.mark.behaviour("LNS-FLT-16")
@pytest.mark.needs("pid_ns", "time_ns")
def test_namespaces_for_children_are_listed_before_there_are_any() -> None:
    with Task() as task, holding(NS.UTS) as [before]:
        task.call(unshare, NS.PID | NS.TIME)
        for kind in (NS.PID, NS.TIME):
            # Its link in /proc cannot be opened before there is a child, until Linux 7.1.
            with owned(open_of_pidfd(task.pidfd, PidfdGet[kind.child_link.upper()])) as fd:
                made = id_of(fd)
            assert list_page(ListRequest(kind, cursor=before.id)) == [made]
            assert ns_id(kind, task.pid) != made


def detached_copy() -> int:
    """A mount namespace without a name: of a copy of the mount of the root directory."""
    return open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE)


@pytest.mark.behaviour("LNS-FLT-17")
@pytest.mark.parametrize("make", [detached_copy, detached_mount], ids=["copy", "mount"])
def test_anonymous_mount_namespace_has_an_id_but_is_not_listed(make: Callable[[], int]) -> None:
    with holding(NS.UTS) as [below], owned(make()), holding(NS.UTS) as [above]:
        assert above.id == below.id + 2
        assert list_page(ListRequest(cursor=below.id)) == [above.id]
        assert list_all(NS.MNT, cursor=below.id) == []
