# SPDX-License-Identifier: GPL-2.0-only
"""Owners: a user namespace is visible as long as something that it owns is."""

import os
from collections.abc import Callable

import pytest
from nslib import (
    NS,
    Task,
    configured_types,
    encode_handle,
    hold,
    hold_each,
    hold_together,
    id_of,
    ids_of,
    nest,
    ns_id,
    open_handle,
    open_id,
    open_ns,
    open_owner,
    open_parent,
    owned,
    release,
    visible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")

LEVELS = 4


def hold_fd(kind: NS) -> int:
    """An fd of a new namespace."""
    return hold(kind).fd


@pytest.mark.behaviour("ACT-26", "ACT-27")
def test_visible_namespace_keeps_all_its_owners() -> None:
    with nest(NS.NET, LEVELS) as made:
        fd = open_ns(NS.NET, made.task.pid)
        made.task.reap()
        assert visible(*made.ids) == made.ids
        os.close(fd)
        assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-26", "ACT-29")
def test_namespace_of_each_type_keeps_all_its_owners() -> None:
    kinds = NS.UTS | NS.IPC | NS.MNT | NS.CGROUP | NS.NET
    with nest(kinds, 2) as made:
        fds = {made.owned[kind]: open_ns(kind, made.task.pid) for kind in kinds}
        made.task.reap()
    while fds:
        assert visible(*made.ids) == {*made.users, *fds}
        os.close(fds.pop(min(fds)))
    assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-26", "ACT-27")
def test_innermost_user_namespace_keeps_those_above() -> None:
    with nest(NS.NONE, LEVELS) as made:
        fd = open_ns(NS.USER, made.task.pid)
        made.task.reap()
        assert visible(*made.users) == set(made.users)
        os.close(fd)
        assert not visible(*made.users)


@pytest.mark.behaviour("ACT-27")
def test_exit_of_a_task_ends_all_levels() -> None:
    with nest(NS.NET, LEVELS) as made:
        made.task.zombie()
        assert visible(*made.ids) == set(made.users)
        made.task.reap()
        assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-28")
def test_owner_is_visible_while_any_of_several_is() -> None:
    with Task(NS.USER | NS.UTS) as task:
        user = ns_id(NS.USER, task.pid)
        fds = [task.fetch(hold_fd, NS.UTS) for _ in range(3)]
        task.reap()
    for place in (1, 0, 0):
        assert visible(user)
        os.close(fds.pop(place))
    assert not visible(user)


@pytest.mark.behaviour("ACT-29")
def test_owned_namespaces_of_all_types_count_each() -> None:
    held = hold_together(NS.ALL)
    user = held[NS.USER].id
    ids = {one.id for one in held.values()}
    os.close(held.pop(NS.USER).fd)
    while held:
        assert visible(*ids) == {user, *(one.id for one in held.values())}
        os.close(held.popitem()[1].fd)
    assert not visible(*ids)


@pytest.mark.behaviour("ACT-29")
def test_owned_namespace_of_any_type_keeps_its_owner_alone() -> None:
    for kind in configured_types(NS.USER):
        held = hold_together(NS.USER | kind)
        os.close(held[NS.USER].fd)
        ids = {one.id for one in held.values()}
        assert visible(*ids) == ids, kind.name
        os.close(held[kind].fd)
        assert not visible(*ids), kind.name


@pytest.mark.behaviour("ACT-30")
def test_cascade_stops_where_a_user_namespace_is_referred_to() -> None:
    with nest(NS.NET, 3) as made:
        net = open_ns(NS.NET, made.task.pid)
        made.task.reap()
    with owned(open_owner(net)) as inner:
        middle = open_owner(inner)
    assert visible(*made.ids) == made.ids
    os.close(net)
    assert visible(*made.ids) == set(made.users[:2])
    os.close(middle)
    assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-30")
def test_cascade_stops_where_a_user_namespace_has_a_task() -> None:
    with Task(NS.USER) as outer, outer.spawn(NS.USER | NS.NET) as inner:
        user = ns_id(NS.USER, outer.pid)
        owned_ids = ns_id(NS.USER, inner.pid), ns_id(NS.NET, inner.pid)
        inner.reap()
        assert visible(user, *owned_ids) == {user}
        outer.zombie()
        assert visible(user)
        outer.reap()
        assert not visible(user)


@pytest.mark.behaviour("ACT-30")
def test_cascade_stops_where_a_user_namespace_owns_another() -> None:
    with Task(NS.USER | NS.UTS) as task:
        user, uts = ns_id(NS.USER, task.pid), ns_id(NS.UTS, task.pid)
        uts_fd = open_ns(NS.UTS, task.pid)
        inner_fd = task.fetch(hold_fd, NS.USER)
        inner = id_of(inner_fd)
        task.reap()
    os.close(inner_fd)
    assert visible(user, uts, inner) == {user, uts}
    os.close(uts_fd)
    assert not visible(user, uts, inner)


def _reopen(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _open_by_id(fd: int) -> int:
    return open_id(id_of(fd))


def _open_by_handle(fd: int) -> int:
    return open_handle(encode_handle(fd).handle)


ROUTES = (_reopen, _open_by_id, _open_by_handle, os.dup)


@pytest.mark.behaviour("ACT-31")
def test_any_number_of_fds_counts_once() -> None:
    held = hold_together(NS.USER | NS.NET)
    ids = {one.id for one in held.values()}
    fds = [held[NS.NET].fd]
    fds += [route(fds[0]) for _ in range(12) for route in ROUTES]
    os.close(held[NS.USER].fd)
    for fd in (*fds[1::2], *fds[::2]):
        assert visible(*ids) == ids
        os.close(fd)
    assert not visible(*ids)


@pytest.mark.behaviour("ACT-31")
def test_opening_and_closing_over_and_over_leaves_no_count() -> None:
    with Task(NS.USER | NS.NET) as task:
        user, net = ns_id(NS.USER, task.pid), ns_id(NS.NET, task.pid)
        for _ in range(50):
            with owned(open_ns(NS.NET, task.pid)) as fd, owned(open_owner(fd)):
                pass
        assert visible(user, net) == {user, net}
        task.reap()
        assert not visible(user, net)


@pytest.mark.behaviour("ACT-31")
def test_namespaces_that_come_and_go_leave_no_count_to_the_owners() -> None:
    kinds = (NS.UTS, NS.IPC, NS.NET)
    with nest(NS.UTS | NS.IPC | NS.NET) as made:
        for _ in range(2):
            held = made.task.call(hold_each, kinds)
            assert visible(*ids_of(held)) == set(ids_of(held))
            made.task.call(release, held)
            assert visible(*ids_of(held), *made.ids) == made.ids
        made.task.zombie()
        assert visible(*made.ids) == set(made.users)
        made.task.reap()
        assert not visible(*made.ids)


@pytest.mark.behaviour("ACT-34")
@pytest.mark.parametrize("ask", [open_owner, open_parent], ids=["NS_GET_USERNS", "NS_GET_PARENT"])
def test_fd_of_the_owner_keeps_it_after_what_it_owns(ask: Callable[[int], int]) -> None:
    with nest(NS.NONE, 2) as made:
        fd = open_ns(NS.USER, made.task.pid)
        made.task.reap()
    outer, inner = made.users
    with owned(ask(fd)):
        os.close(fd)
        assert visible(outer, inner) == {outer}
    assert not visible(outer, inner)
