# SPDX-License-Identifier: GPL-2.0-only
"""The reference model by examples."""

import json
from collections.abc import Sequence
from errno import EACCES, EINVAL, ENOENT, ENOMEM, EPERM, ESRCH, ESTALE
from typing import Any

import pytest
from nslib import LINKS, NS
from nslib.model import joining, lifetimes, listings, operations, plays
from nslib.model.lifetimes import active, existing
from nslib.model.listings import (
    END,
    LISTED,
    NO_WRAP,
    NOT_THE_END,
    WRAPPING_CURSOR,
    Page,
    Request,
    broken_rule,
    page,
)
from nslib.model.operations import Operation
from nslib.model.powers import is_capable, may_access, sees_all
from nslib.model.queries import CURRENT_OWNER, NO_OWNER, START
from nslib.model.records import recorded, replayable
from nslib.model.repertoire import (
    OPERATIONS,
    BecomeNobody,
    Bind,
    Clone,
    Close,
    Drop,
    Exit,
    Join,
    List,
    MakeSocket,
    Open,
    OpenHandle,
    Owner,
    Parent,
    Reap,
    Receive,
    Send,
    Setns,
    SocketNs,
    Unmount,
    Unshare,
)
from nslib.model.rules import Rule
from nslib.model.worlds import Home, Namespace, World

from harness.catalogue import load
from tests.mirror import open_link

USER, PID = LINKS.index("user"), LINKS.index("pid")


def after(*operations: Operation) -> World:
    """A world in which these operations have been done, all of them with success."""
    world = World()
    for operation in operations:
        assert do(world, operation) == 0, operation
    return world


def do(world: World, operation: Operation) -> int:
    """The errno of an operation whose operands exist."""
    assert operation.resolve(world) == operation
    errno = operation.apply(world)
    for one in world.namespaces:
        one.id = one.id or 10 + one.number
    return errno


def names(some: set[Namespace]) -> set[str]:
    """The names of those that are not always there."""
    return {one.name for one in some if not one.is_permanent}


def shown(world: World) -> set[str]:
    """The names of what is active."""
    return names(active(world))


class TestLifetimes:
    def test_only_initial_namespaces_at_first(self) -> None:
        assert {one.id for one in active(World())} == {1, 2, 3, 4, 5, 6, 7, 8}

    def test_nsproxy_goes_with_exit_and_credentials_with_the_reap(self) -> None:
        world = after(Clone(0, NS.USER | NS.PID | NS.NET))
        assert shown(world) == {"user8", "pid9", "net10"}
        do(world, Exit(1))
        assert shown(world) == {"user8", "pid9"}
        do(world, Reap(1))
        assert shown(world) == set()

    def test_file_keeps_its_namespace_and_the_owners_active(self) -> None:
        world = after(
            Clone(0, NS.USER), Clone(1, NS.USER | NS.UTS), open_link(0, 2, NS.UTS),
            Exit(2), Reap(2), Exit(1), Reap(1),
        )  # fmt: skip
        assert shown(world) == {"user8", "user9", "uts10"}
        do(world, Close(0, 2))
        assert shown(world) == set()

    def test_socket_keeps_nothing_active_until_its_namespace_is_opened(self) -> None:
        world = after(
            Clone(0, NS.USER | NS.NET), MakeSocket(1), Send(1, 2), Receive(0), Exit(1), Reap(1)
        )
        assert shown(world) == set()
        assert names(existing(world)) == {"user8", "net9"}
        do(world, SocketNs(0, 2))
        assert shown(world) == {"user8", "net9"}

    def test_file_in_flight_counts(self) -> None:
        world = after(Unshare(0, NS.UTS), open_link(0, 0, NS.UTS), Send(0, 2), Unshare(0, NS.UTS))
        assert shown(world) == {"uts8", "uts9"}
        do(world, Receive(0))
        do(world, Close(0, 2))
        assert shown(world) == {"uts9"}

    def test_mount_counts_as_long_as_its_mount_namespace(self) -> None:
        world = after(
            Clone(0, NS.MNT), Unshare(1, NS.UTS), open_link(1, 1, NS.UTS), Bind(1, 2, 0),
            Close(1, 2), Unshare(1, NS.IPC | NS.UTS),
        )  # fmt: skip
        assert "uts9" in shown(world)
        do(world, Exit(1))
        assert shown(world) == set()

    def test_copies_of_mounts_count_but_not_of_mount_namespaces(self) -> None:
        world = after(
            Clone(0, NS.MNT | NS.UTS), open_link(0, 1, NS.MNT), open_link(0, 1, NS.UTS),
            Bind(0, 2, 0), Bind(0, 3, 1), Close(0, 2), Close(0, 3), Exit(1), Reap(1),
            Clone(0, NS.MNT), Unmount(0, 1), Unmount(0, 0),
        )  # fmt: skip
        assert shown(world) == {"uts9", "mnt10"}

    def test_parent_pid_namespace_is_active_only_when_it_is_opened(self) -> None:
        world = after(Clone(0, NS.PID), Clone(1, NS.PID), open_link(0, 2, NS.PID), Exit(1), Reap(1))
        assert shown(world) == {"pid9"}
        do(world, Parent(0, 2))
        assert shown(world) == {"pid8", "pid9"}

    def test_joiner_keeps_what_it_has_joined(self) -> None:
        world = after(Clone(0, NS.USER | NS.NET), Join(0, 1, NS.NET), Exit(1), Reap(1))
        assert shown(world) == {"user8", "net9"}
        do(world, Unshare(0, NS.NET))
        assert shown(world) == {"net10"}

    def test_namespaces_for_children_count(self) -> None:
        world = after(Unshare(0, NS.PID | NS.TIME))
        assert shown(world) == {"pid8", "time9"}
        do(world, Clone(0))
        assert world.tasks[1].pid.name == "pid8"
        assert world.tasks[1].proxy["time"].name == "time9"


class TestTasks:
    def test_init_takes_everybody_with_it(self) -> None:
        world = after(Clone(0, NS.PID), Clone(1, NS.USER), Clone(1, NS.PID), Exit(1))
        assert [task.is_reaped for task in world.tasks] == [False, False, True, True]
        assert shown(world) == {"pid8"}

    def test_nobody_is_born_where_init_is_dead(self) -> None:
        world = after(Unshare(0, NS.PID), Clone(0), Exit(1))
        assert do(world, Clone(0)) == ENOMEM

    def test_orphans_go_to_init(self) -> None:
        world = after(Clone(0, NS.PID), Clone(1), Clone(2), Exit(2))
        assert world.tasks[3].parent is world.tasks[1]
        outside = after(Clone(0), Clone(1), Exit(1))
        assert outside.tasks[2].parent is None

    def test_pid_namespace_is_only_made_in_the_active_one(self) -> None:
        world = after(Unshare(0, NS.PID))
        assert do(world, Unshare(0, NS.PID)) == EINVAL

    def test_new_namespaces_need_capabilities_but_a_user_namespace_none(self) -> None:
        world = after(Clone(0), Drop(1))
        assert do(world, Unshare(1, NS.NET)) == EPERM
        assert do(world, Unshare(1, NS.USER | NS.NET)) == 0
        # Who had no CAP_SETFCAP could not map root.
        assert do(world, Unshare(1, NS.USER)) == EPERM


class TestPowers:
    def test_capabilities_reach_downwards(self) -> None:
        world = after(Clone(0, NS.USER), Clone(1, NS.USER))
        initial, upper, lower = (task.user for task in world.tasks)
        assert [is_capable(world.tasks[1], one) for one in (initial, upper, lower)] == [
            False, True, True,
        ]  # fmt: skip

    def test_who_made_a_user_namespace_has_power_over_it(self) -> None:
        world = after(Clone(0), BecomeNobody(1), Clone(1, NS.USER), Clone(0), Drop(3))
        made = world.tasks[2].user
        assert is_capable(world.tasks[1], made)
        assert not is_capable(world.tasks[3], made)

    def test_view_of_all_is_for_root_in_the_initial_pid_namespace(self) -> None:
        world = after(
            Clone(0, NS.NET), Clone(0, NS.PID), Clone(0, NS.USER), Clone(0), Drop(4),
            Unshare(1, NS.PID),
        )  # fmt: skip
        assert [sees_all(world, task) for task in world.tasks] == [True, True, False, False, False]

    def test_access_to_tasks(self) -> None:
        world = after(Clone(0, NS.USER), Clone(0), Drop(2), Clone(0), Drop(3))
        root, inner, dropped, other = world.tasks
        assert may_access(world, root, inner)
        assert not may_access(world, inner, root)
        assert may_access(world, dropped, other)
        assert not may_access(world, dropped, root)

    def test_links_of_others(self) -> None:
        world = after(Clone(0, NS.USER), Clone(0), Exit(2))
        assert do(world, Open(1, 0, USER)) == EACCES
        assert do(world, open_link(0, 2, NS.NET)) == ENOENT
        assert do(world, Open(0, 2, PID)) == 0

    def test_relatives(self) -> None:
        world = after(Clone(0, NS.USER | NS.PID), open_link(1, 1, NS.USER), open_link(1, 1, NS.PID))
        assert do(world, Owner(1, 2)) == EPERM
        assert do(world, Owner(1, 3)) == 0
        assert do(world, Parent(1, 3)) == EPERM
        do(world, open_link(1, 1, NS.UTS))
        assert do(world, Parent(1, 5)) == EINVAL


class TestJoining:
    def test_type_must_be_right(self) -> None:
        world = after(open_link(0, 0, NS.UTS), MakeSocket(0))
        assert do(world, Setns(0, 2, NS.NET)) == EINVAL
        assert do(world, Setns(0, 3, NS.NET)) == EINVAL
        assert do(world, Setns(0, 2, NS.UTS)) == do(world, Setns(0, 2)) == 0

    def test_own_user_namespace(self) -> None:
        world = after(open_link(0, 0, NS.USER))
        assert do(world, Setns(0, 2)) == EINVAL

    def test_no_way_up(self) -> None:
        world = after(open_link(0, 0, NS.USER), open_link(0, 0, NS.UTS), Clone(0, NS.USER | NS.UTS))
        assert [do(world, Setns(1, fd)) for fd in (2, 3)] == [EPERM, EPERM]

    def test_pid_namespaces_below_only(self) -> None:
        world = after(Clone(0, NS.PID), open_link(0, 0, NS.PID), open_link(0, 1, NS.PID))
        assert [do(world, Setns(0, fd)) for fd in (3, 2)] == [0, 0]
        inside = after(open_link(0, 0, NS.PID), Clone(0, NS.PID))
        assert do(inside, Setns(1, 2)) == EINVAL

    def test_by_pidfd_flags_then_access_then_life(self) -> None:
        world = after(Clone(0), Clone(0), Drop(1), Exit(2))
        assert do(world, Join(0, 2)) == EINVAL
        assert do(world, Join(1, 2, NS.UTS)) == EPERM
        assert do(world, Join(0, 2, NS.UTS)) == ESRCH

    def test_all_or_nothing(self) -> None:
        world = after(Clone(0, NS.PID), Clone(0, NS.UTS), Unshare(2, NS.PID))
        before = world.tasks[0].proxy["uts"]
        assert do(world, Join(0, 2, NS.UTS | NS.USER)) == EINVAL
        assert world.tasks[0].proxy["uts"] is before
        assert do(world, Join(0, 2, NS.UTS | NS.PID)) == 0
        assert world.tasks[0].proxy["uts"] is world.tasks[2].proxy["uts"]
        # The target's own, not that of its children.
        assert world.tasks[0].proxy["pid_for_children"] is world.initial_pid

    def test_power_over_the_user_namespace_is_not_enough(self) -> None:
        world = after(
            Clone(0), BecomeNobody(1), Clone(1, NS.USER | NS.UTS), open_link(1, 2, NS.UTS)
        )
        assert do(world, Setns(1, 2)) == EPERM
        assert do(world, Join(1, 2, NS.USER | NS.UTS)) == 0


class TestListings:
    @pytest.fixture
    def world(self) -> World:
        """Namespaces 18 (user), 19 (uts), 20 (net), which 18 owns, and 21 (net)."""
        return after(Clone(0, NS.USER | NS.UTS | NS.NET), Clone(0, NS.NET))

    def ids(self, world: World, task: int = 0, **fields: Any) -> Sequence[int]:
        return page(world, world.tasks[task], Request(**fields))[0].ids

    def ends(self, world: World, **fields: Any) -> frozenset[int]:
        demanded = page(world, world.tasks[0], Request(**fields))[0]
        assert not demanded.ids
        return demanded.errnos

    def test_filters(self, world: World) -> None:
        owner = world.tasks[1].user
        assert self.ids(world, cursor=8) == (18, 19, 20, 21)
        assert self.ids(world, types=NS.NET, cursor=18) == (20, 21)
        assert self.ids(world, owner=owner) == (19, 20)
        assert self.ids(world, owner=owner, types=NS.NET | NS.USER) == (20,)
        assert self.ids(world, cursor=18, nr=2) == (19, 20)
        assert self.ids(world) == (1, 2, 3, 4, 5, 6, 7, 8, 18, 19, 20, 21)

    def test_callers(self, world: World) -> None:
        assert self.ids(world, task=1) == (1, 4, 5, 6, 8, 18, 19, 20)
        assert self.ids(world, task=1, owner=world.tasks[1].user) == (19, 20)

    def test_owner_that_is_none(self, world: World) -> None:
        net = world.tasks[2].proxy["net"]
        assert self.ends(world, owner=net) == {EINVAL}
        owner = world.tasks[1].user
        do(world, Exit(1))
        do(world, Reap(1))
        assert self.ends(world, owner=owner) == {EINVAL}

    def test_ends(self, world: World) -> None:
        assert self.ends(world, cursor=21) == {ENOENT}
        assert self.ends(world, cursor=WRAPPING_CURSOR) == {ENOENT}
        assert self.ends(world, types=NS.UTS, cursor=20) == {ENOENT}
        assert self.ends(world, types=NS.UTS | NS.USER, cursor=20) == {0}
        assert self.ends(world, owner=world.tasks[1].user, types=NS.IPC) == {0}

    def test_end_at_what_may_be_there_still(self, world: World) -> None:
        do(world, Exit(2))
        assert self.ends(world, cursor=20) == {0, ENOENT}

    def test_end_at_what_a_socket_holds(self) -> None:
        world = after(Clone(0, NS.NET), MakeSocket(1), Send(1, 2), Receive(0), Exit(1), Reap(1))
        assert self.ends(world, cursor=8) == {0}
        world.home = Home(ends_at_inactive=True)
        assert self.ends(world, cursor=8) == {0, ENOENT}

    def test_handles(self, world: World) -> None:
        assert do(world, OpenHandle(0, 10)) == 0
        assert do(world, OpenHandle(1, 10)) == 0
        assert do(world, OpenHandle(1, 11)) == ESTALE
        do(world, Exit(2))
        assert do(world, OpenHandle(0, 11)) == ESTALE

    @pytest.mark.parametrize(
        ("answer", "demanded", "rule", "broken"),
        [
            (Page((1,)), Page((1,)), LISTED, None),
            (Page((1,)), Page((1, 2)), LISTED, LISTED),
            (Page(errnos=frozenset((ENOENT,))), Page((1,)), LISTED, NOT_THE_END),
            (Page(), Page(errnos=frozenset((0, ENOENT))), END, None),
            (Page(errnos=frozenset((ENOENT,))), Page(), END, END),
            (Page(), Page(errnos=frozenset((ENOENT,))), END, END),
            (Page((1,)), Page(errnos=frozenset((ENOENT,))), NO_WRAP, NO_WRAP),
        ],
    )
    def test_breaches(self, answer: Page, demanded: Page, rule: Any, broken: Any) -> None:
        assert broken_rule(answer, demanded, rule) is broken


class TestRules:
    def test_behaviours_are_in_the_catalogue(self) -> None:
        modules = [joining, lifetimes, listings, operations, plays]
        rules = [one for module in modules for one in vars(module).values()]
        named = {name for one in rules if isinstance(one, Rule) for name in one.behaviours}
        assert len(named) > 20
        assert named <= load().keys()


class TestOperations:
    def test_impossible_operands_stand_for_possible_ones(self) -> None:
        world = after(Clone(0))
        assert Exit(8).resolve(world) == Exit(1)
        assert Open(7, 5, 11).resolve(world) == Open(1, 1, 1)
        assert Close(0, 3).resolve(world) is None
        assert Reap(0).resolve(world) is None

    def test_newest(self) -> None:
        world = after(Clone(0), Clone(0), MakeSocket(2), MakeSocket(2))
        assert Close(-1, -1).resolve(world) == Close(2, 3)

    def test_words(self) -> None:
        world = after(Clone(0, NS.USER | NS.NET), open_link(0, 1, NS.NET))
        assert Clone(0, NS.UTS).describe(world) == "t2 = clone(UTS) by t0"
        assert Setns(0, 2).describe(world) == "setns(fd 2, net9, 0) by t0"
        listing = List(1, NS.NET, CURRENT_OWNER, 9, 1, 3)
        words = "listns(types NET, owner current, cursor net9 - 1, nr 3) by t1"
        assert listing.describe(world) == words

    def test_records(self) -> None:
        sequence = [kind(0) for kind in OPERATIONS]
        sequence += [Clone(2, NS.USER | NS.TIME), List(1, NS.NET, NO_OWNER, START, 1, 7)]
        assert replayable(json.loads(json.dumps(recorded(sequence)))) == sequence
        assert recorded([Clone(2, NS.USER)]) == [{"op": "Clone", "task": 2, "kinds": "USER"}]
