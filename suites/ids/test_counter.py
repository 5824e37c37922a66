# SPDX-License-Identifier: GPL-2.0-only
"""The counter that ids come from: one for all types, and it only goes up."""

import os
from collections.abc import Callable, Iterator
from errno import ENOSPC
from itertools import cycle, islice
from pathlib import Path

import pytest
from nslib import (
    NS,
    ListRequest,
    PidfdGet,
    Task,
    configured_types,
    errno_of,
    holding,
    holding_together,
    id_behind,
    list_page,
    ns_id,
    open_of_pidfd,
    unshare,
)

pytestmark = pytest.mark.needs("fixed_ids")

ORDER_OF_CREATION = (NS.USER, NS.MNT, NS.UTS, NS.IPC, NS.PID, NS.CGROUP, NS.NET, NS.TIME)


@pytest.fixture
def cpus() -> Iterator[Iterator[int]]:
    """The CPUs in turn, over and over."""
    allowed = os.sched_getaffinity(0)
    yield cycle(sorted(allowed))
    os.sched_setaffinity(0, allowed)


@pytest.mark.behaviour("NSID-04")
def test_ids_ascend_whatever_the_type_and_the_cpu(cpus: Iterator[int]) -> None:
    others = [kind for kind in configured_types() if kind != NS.USER]
    ids = []
    for kind in (NS.USER, *islice(cycle(others), 28), NS.USER):
        os.sched_setaffinity(0, {next(cpus)})
        with holding(kind) as [held]:
            ids.append(held.id)
    assert ids == sorted(set(ids))


@pytest.mark.behaviour("NSID-07")
def test_clone_creates_in_a_fixed_order(every_type: NS) -> None:
    with holding_together(every_type) as held:
        created = [kind for kind in ORDER_OF_CREATION if kind in held]
        assert sorted(held, key=lambda kind: held[kind].id) == created


@pytest.mark.behaviour("NSID-07")
def test_unshare_creates_in_a_fixed_order(every_type: NS) -> None:
    ids = {}
    with Task() as task:
        task.call(unshare, every_type)
        for kind in configured_types():
            ids[kind] = id_behind(open_of_pidfd(task.pidfd, PidfdGet[kind.child_link.upper()]))
    created = [kind for kind in ORDER_OF_CREATION if kind in ids]
    assert sorted(ids, key=lambda kind: ids[kind]) == created


@pytest.mark.behaviour("NSID-08")
def test_ids_are_unique_across_types(every_type: NS) -> None:
    with holding_together(every_type) as held:
        lists = {kind: list_page(ListRequest(kind)) for kind in configured_types()}
        assert all(held[kind].id in lists[kind] for kind in lists)
    ids = [one for listed in lists.values() for one in listed]
    assert len(set(ids)) == len(ids)


@pytest.mark.behaviour("NSID-09")
def test_ids_are_not_used_again(observe: Callable[[str, object], None]) -> None:
    ids, inodes = [], set()
    for _ in range(200):
        with holding(NS.UTS) as [held]:
            ids.append(held.id)
            inodes.add(os.fstat(held.fd).st_ino)
    observe("inode_numbers_of_200_namespaces", len(inodes))
    assert ids == sorted(set(ids))


def limit(kind: NS, number: int) -> None:
    """Set how many namespaces of a type the caller's user namespace may have."""
    Path(f"/proc/sys/user/max_{kind.link}_namespaces").write_text(f"{number}")


@pytest.mark.needs("time_ns")
@pytest.mark.behaviour("NSID-19")
def test_failed_creation_leaves_nothing_behind(every_type: NS) -> None:
    with Task(NS.USER) as task:
        owner = ListRequest(owner=ns_id(NS.USER, task.pid))
        task.call(limit, NS.TIME, 0)  # the last type in the order of creation
        assert errno_of(task.call, unshare, every_type & ~NS.USER) == ENOSPC
        assert list_page(owner) == []
        task.call(limit, NS.TIME, 1)
        task.call(unshare, every_type & ~NS.USER)
        assert len(list_page(owner)) == len(configured_types()) - 1
