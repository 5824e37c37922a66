# SPDX-License-Identifier: GPL-2.0-only
"""Owners and parents: older than what they own and beget, and so are their ids."""

from collections.abc import Iterator
from contextlib import suppress
from errno import ESTALE

import pytest
from nslib import (
    INITIAL_IDS,
    NS,
    ListRequest,
    Task,
    hold,
    id_of,
    list_page,
    ns_id,
    open_id,
    open_parent,
    owned,
    owner_id_of,
    unshare,
)

pytestmark = pytest.mark.needs("fixed_ids", "id_handles")


def owners() -> dict[int, int]:
    """The owner of each listed namespace but the initial ones, by their ids."""
    found = {}
    for one in set(list_page(ListRequest())) - set(INITIAL_IDS.values()):
        try:
            fd = open_id(one)
        except OSError as error:
            if error.errno != ESTALE:  # it has ended since, where others make namespaces too
                raise
        else:
            with owned(fd):
                found[one] = owner_id_of(fd)
    return found


def ids_upwards(fd: int) -> Iterator[int]:
    """Ids of a user or pid namespace, its parent, and so on up to the initial one."""
    yield id_of(fd)
    with suppress(PermissionError), owned(open_parent(fd)) as parent:
        yield from ids_upwards(parent)


def new_ns(kind: NS) -> int:
    """An fd of a new namespace."""
    return hold(kind).fd


@pytest.mark.behaviour("NSID-05")
def test_owner_is_older_than_what_it_owns() -> None:
    with Task(NS.USER) as task:
        outer = ns_id(NS.USER, task.pid)
        task.call(unshare, NS.USER | NS.UTS)
        inner, uts = ns_id(NS.USER, task.pid), ns_id(NS.UTS, task.pid)
        of = owners()
    assert (of[inner], of[uts]) == (outer, inner)
    assert [one for one in of if of[one] >= one] == []


@pytest.mark.behaviour("NSID-06")
@pytest.mark.parametrize("kind", [NS.USER, NS.PID])
def test_parent_is_older(kind: NS) -> None:
    with Task(kind) as outer, outer.spawn(kind) as inner:
        made = [ns_id(kind, task.pid) for task in (inner, outer)]
        with owned(inner.fetch(new_ns, kind)) as innermost:
            ids = list(ids_upwards(innermost))
    assert ids[1:] == [*made, INITIAL_IDS[kind]]
    assert ids == sorted(set(ids), reverse=True)
