# SPDX-License-Identifier: GPL-2.0-only
"""Who lists everything: CAP_SYS_ADMIN over the initial user namespace, from the initial pid one.

All others get the namespaces that they are in, and no error (may_list_ns() in kernel/nstree.c).
Linux 6.19.0 to 6.19.8 went by CAP_SYS_ADMIN over the owner instead.
"""

import os
from collections.abc import Callable
from functools import partial

import pytest
from nslib import (
    MS_BIND,
    NS,
    PINNABLE,
    SOMEBODY,
    Cap,
    ListRequest,
    Task,
    active_ids,
    hold,
    hold_each,
    holding,
    holding_together,
    limit_caps,
    list_all,
    list_page,
    mount,
    ns_id,
    own_ids,
    pinned,
    set_effective_caps,
    setns,
    unshare,
    wait_until,
)

pytestmark = pytest.mark.needs("listns")


def _with_whole(look: Callable[[], list[int]]) -> list[list[int]]:
    """What `look` gives, and what the real root lists before and after it alike."""

    def attempt() -> list[list[int]]:
        whole = list_all()
        seen = look()
        return [seen, whole] if list_all() == whole else []

    return wait_until(attempt, "moment without new or ended namespaces")


@pytest.mark.behaviour("LNS-PRM-01")
def test_real_root_lists_every_active_namespace() -> None:
    with Task(NS.ALL) as task:
        mounted, held = task.call(hold_each, [NS.UTS, NS.NET])
        task.call(mount, f"/proc/self/fd/{mounted.fd}", "/proc/version", flags=MS_BIND)
        task.call(os.close, mounted.fd)
        task.call(unshare, NS.TIME)  # for its children
        census, whole = _with_whole(active_ids)
        assert whole == census
        assert {mounted.id, held.id, *task.call(own_ids)} <= set(whole)


@pytest.mark.behaviour("LNS-PRM-04")
def test_root_in_a_child_pid_namespace_lists_its_own() -> None:
    with Task(NS.PID) as task, holding(NS.UTS) as [stranger]:
        user = ns_id(NS.USER)
        assert stranger.id in list_all(owner=user)
        assert task.call(list_all) == task.call(own_ids)
        assert task.call(list_all, owner=user) == task.call(own_ids, NS.USER)


@pytest.mark.behaviour("LNS-PRM-05")
def test_unsharing_the_pid_namespace_does_not_reduce_the_view() -> None:
    with Task() as task, holding(NS.UTS) as [stranger]:
        task.call(unshare, NS.PID)
        seen, whole = _with_whole(partial(task.call, list_all))
        assert seen == whole
        assert stranger.id in seen


@pytest.mark.behaviour("LNS-PRM-05")
def test_joining_a_pid_namespace_does_not_reduce_the_view() -> None:
    with Task() as task, holding(NS.UTS) as [stranger]:
        task.call(setns, task.call(hold, NS.PID).fd, NS.PID)
        seen, whole = _with_whole(partial(task.call, list_all))
        assert seen == whole
        assert stranger.id in seen


@pytest.mark.behaviour("LNS-PRM-06")
def test_other_new_namespaces_do_not_reduce_the_view() -> None:
    with Task(NS.ALL & ~(NS.USER | NS.PID)) as task, holding(NS.UTS) as [stranger]:
        seen, whole = _with_whole(partial(task.call, list_all))
        assert seen == whole
        assert {stranger.id, *task.call(own_ids)} <= set(seen)


@pytest.mark.behaviour("LNS-PRM-07")
def test_root_without_sys_admin_lists_its_own() -> None:
    with Task() as task, holding_together(NS.USER | NS.UTS) as others:
        task.call(set_effective_caps, Cap.ALL & ~Cap.SYS_ADMIN)
        assert others[NS.UTS].id in list_all()
        assert task.call(list_all) == task.call(own_ids)
        assert task.call(list_all, owner=others[NS.USER].id) == []


@pytest.mark.behaviour("LNS-PRM-07")
def test_raising_sys_admin_restores_the_view() -> None:
    with Task() as task, holding(NS.UTS) as [stranger]:
        task.call(set_effective_caps, Cap.ALL & ~Cap.SYS_ADMIN)
        assert stranger.id not in task.call(list_all)
        task.call(set_effective_caps, Cap.ALL)
        seen, whole = _with_whole(partial(task.call, list_all))
        assert seen == whole
        assert stranger.id in seen


@pytest.mark.behaviour("LNS-PRM-08")
def test_any_user_with_sys_admin_lists_everything() -> None:
    with Task(uid=SOMEBODY, caps=Cap.SYS_ADMIN) as task, holding(NS.UTS) as [stranger]:
        seen, whole = _with_whole(partial(task.call, list_all))
        assert seen == whole
        assert stranger.id in seen


@pytest.mark.behaviour("LNS-PRM-09")
def test_creator_of_a_user_namespace_does_not_list_what_it_owns() -> None:
    # Distributions can refuse to make one without CAP_SYS_ADMIN, so it is dropped afterwards.
    with Task(uid=SOMEBODY, caps=Cap.SYS_ADMIN) as task, task.spawn(NS.USER | NS.UTS) as created:
        task.call(limit_caps, Cap.NONE)
        user = ns_id(NS.USER, created.pid)
        assert ns_id(NS.UTS, created.pid) in list_all(owner=user)
        assert task.call(list_all) == task.call(own_ids)
        assert task.call(list_all, owner=user) == []


@pytest.mark.behaviour("LNS-PRM-19")
def test_privilege_is_checked_by_each_call() -> None:
    with (
        holding(NS.UTS) as [older],
        Task(NS.UTS, uid=SOMEBODY, caps=Cap.SYS_ADMIN) as task,
        holding(NS.UTS),
    ):
        assert task.call(list_page, ListRequest(cursor=older.id - 1), 1) == [older.id]
        task.call(limit_caps, Cap.NONE)
        assert task.call(list_page, ListRequest(cursor=older.id)) == [ns_id(NS.UTS, task.pid)]


@pytest.mark.behaviour("LNS-PRM-21")
@pytest.mark.parametrize("kind", PINNABLE, ids=lambda kind: kind.link)
def test_inactive_namespace_is_invisible_to_root(kind: NS) -> None:
    with Task(kind) as task, pinned(task, kind):
        ended = ns_id(kind, task.pid)
        assert ended in list_all(kind)
        task.reap()
        lists = list_all(), list_all(kind), list_all(owner=ns_id(NS.USER))
        assert not [ids for ids in lists if ended in ids]
