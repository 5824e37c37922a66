# SPDX-License-Identifier: GPL-2.0-only
"""What a caller lists who may not list everything: the namespaces that its thread is in.

That is is_current_namespace() in kernel/nstree.c; nothing else makes a namespace visible.
"""

import errno
import threading
from collections.abc import Callable, Iterable

import pytest
from nslib import (
    LISTNS_CURRENT_USER,
    MS_BIND,
    NS,
    SOMEBODY,
    Cap,
    ListRequest,
    PidfdGet,
    Task,
    become,
    hold_each,
    holding,
    holding_together,
    id_of,
    limit_caps,
    list_all,
    list_page,
    mount,
    ns_id,
    open_of_pidfd,
    opened,
    own_ids,
    owned,
    scaled,
    setns,
    unshare,
)

pytestmark = pytest.mark.needs("listns")


def _seen_of(ids: Iterable[int], task: Task) -> set[int]:
    """Which of `ids`, all of them listed to the real root, the task lists."""
    assert set(ids) <= set(list_all())
    return set(ids) & set(task.call(list_all))


@pytest.mark.behaviour("LNS-PRM-02")
@pytest.mark.parametrize("kinds", [NS.NONE, NS.ALL & ~NS.USER], ids=["inherited", "new"])
def test_unprivileged_user_lists_its_own(kinds: NS) -> None:
    with Task(kinds, uid=SOMEBODY) as task, holding_together(NS.ALL) as others:
        assert {other.id for other in others.values()} <= set(list_all())
        own = task.call(own_ids)
        assert task.call(list_all) == own
        assert len(own) == 8


@pytest.mark.behaviour("LNS-PRM-02", "LNS-PRM-13")
def test_unprivileged_user_lists_its_own_of_each_type() -> None:
    with Task(uid=SOMEBODY) as task, holding_together(NS.ALL):
        assert task.call(_list_by_type) == {kind: [ns_id(kind)] for kind in NS}


def _list_by_type() -> dict[NS, list[int]]:
    return {kind: list_all(kind) for kind in NS}


@pytest.mark.behaviour("LNS-PRM-02")
def test_root_of_a_user_namespace_lists_its_own() -> None:
    with Task(NS.ALL) as task:
        held = task.call(hold_each, set(NS) - {NS.USER})
        assert {one.id for one in held} <= set(list_all())
        assert task.call(list_all) == task.call(own_ids)


@pytest.mark.behaviour("LNS-PRM-03")
def test_sibling_in_the_same_user_namespace_is_invisible() -> None:
    with Task(NS.USER | NS.IPC) as task, task.spawn(NS.UTS | NS.NET) as sibling:
        theirs = ns_id(NS.UTS, sibling.pid), ns_id(NS.NET, sibling.pid)
        assert _seen_of(theirs, task) == set()
        assert task.call(list_all, owner=LISTNS_CURRENT_USER) == [ns_id(NS.IPC, task.pid)]


@pytest.mark.behaviour("LNS-PRM-10")
def test_foreign_owner_gives_an_empty_list() -> None:
    with Task(uid=SOMEBODY) as task, holding_together(NS.USER | NS.UTS) as others:
        request = ListRequest(owner=others[NS.USER].id)
        assert list_page(request) == [others[NS.UTS].id]
        assert task.call(list_page, request) == []


@pytest.mark.behaviour("LNS-PRM-10")
def test_foreign_owner_gives_those_that_the_caller_is_in() -> None:
    with Task() as task, holding_together(NS.USER | NS.UTS | NS.IPC) as others:
        task.call(setns, task.give(others[NS.UTS].fd), NS.UTS)
        task.call(become, SOMEBODY, None)
        request = ListRequest(owner=others[NS.USER].id)
        assert others[NS.IPC].id in list_page(request)
        assert task.call(list_page, request) == [others[NS.UTS].id]


@pytest.mark.behaviour("LNS-PRM-11")
def test_parent_as_owner_gives_those_that_the_caller_is_in() -> None:
    with Task(NS.USER | NS.UTS) as task, holding(NS.IPC) as [stranger]:
        parent = ns_id(NS.USER)
        assert stranger.id in list_all(owner=parent)
        own = sorted([*own_ids(NS.USER, NS.UTS), ns_id(NS.USER, task.pid)])
        assert task.call(list_all, owner=parent) == own


@pytest.mark.behaviour("LNS-PRM-12")
def test_sibling_user_namespace_is_invisible() -> None:
    with Task(NS.USER) as task, holding_together(NS.ALL) as others:
        assert _seen_of({other.id for other in others.values()}, task) == set()
        assert task.call(list_page, ListRequest(owner=others[NS.USER].id)) == []


@pytest.mark.behaviour("LNS-PRM-13")
def test_own_user_namespace_is_visible() -> None:
    with Task(NS.USER) as task:
        assert task.call(list_all, NS.USER) == [ns_id(NS.USER, task.pid)]


@pytest.mark.behaviour("LNS-PRM-14")
def test_child_user_namespace_is_invisible() -> None:
    with Task(NS.USER) as task, task.spawn(NS.USER) as child:
        assert _seen_of([ns_id(NS.USER, child.pid)], task) == set()
        assert task.call(list_all, owner=LISTNS_CURRENT_USER) == []


@pytest.mark.behaviour("LNS-PRM-15")
@pytest.mark.parametrize("kind", [NS.PID, NS.TIME], ids=lambda kind: kind.link)
def test_namespace_for_children_is_not_current(kind: NS) -> None:
    with Task() as task:
        task.call(unshare, kind)
        task.call(become, SOMEBODY, None)
        # The link in /proc cannot be opened before there is a child, until Linux 7.1.
        with owned(open_of_pidfd(task.pidfd, PidfdGet[kind.child_link.upper()])) as fd:
            assert id_of(fd) in list_all(kind)
        assert task.call(list_all, kind) == [ns_id(kind)]
        assert task.call(list_all) == own_ids()


@pytest.mark.behaviour("LNS-PRM-16")
def test_current_is_what_the_thread_is_in() -> None:
    with Task(uid=SOMEBODY, caps=Cap.SYS_ADMIN) as task:
        thread, inside, main = task.call(_lists_of_two_threads)
    assert thread == inside
    assert main == [ns_id(NS.UTS)]
    assert inside != main


def _lists_of_two_threads() -> tuple[list[int], list[int], list[int]]:
    """What a thread lists of uts namespaces, the one that it is in, what the main thread lists."""
    both = threading.Barrier(2, timeout=scaled(5))
    results: list[list[int]] = []

    def leave() -> None:
        unshare(NS.UTS)
        limit_caps(Cap.NONE)  # of this thread only, as all credentials
        results.extend([list_all(NS.UTS), [ns_id(NS.UTS)]])
        both.wait()
        both.wait()  # The namespace must live on while the other lists.

    thread = threading.Thread(target=leave)
    thread.start()
    both.wait()
    limit_caps(Cap.NONE)
    main = list_all(NS.UTS)
    both.wait()
    thread.join()
    return results[0], results[1], main


@pytest.mark.behaviour("LNS-PRM-17")
def test_file_descriptor_does_not_make_visible() -> None:
    with Task(uid=SOMEBODY) as task, holding(NS.UTS) as [stranger]:
        assert task.call(id_of, task.give(stranger.fd)) == stranger.id
        assert task.call(list_all) == task.call(own_ids)


@pytest.mark.behaviour("LNS-PRM-17")
def test_bind_mount_does_not_make_visible() -> None:
    with Task(NS.MNT) as task, holding(NS.UTS) as [stranger]:
        source = f"/proc/self/fd/{task.give(stranger.fd)}"
        task.call(mount, source, "/proc/version", flags=MS_BIND)
        task.call(become, SOMEBODY, None)
        assert task.call(_id_of_file, "/proc/version") == stranger.id
        assert task.call(list_all) == task.call(own_ids)


def _id_of_file(path: str) -> int:
    with opened(path) as fd:
        return id_of(fd)


@pytest.mark.behaviour("LNS-PRM-18")
def test_pages_of_any_size_give_its_own() -> None:
    with holding(NS.UTS), Task(NS.ALL) as task, holding(NS.UTS) as [between]:
        task.call(unshare, NS.UTS)
        own = task.call(own_ids)
        assert own[-2] < between.id < own[-1]
        assert task.call(_list_by_page_size) == [own] * len(_PAGE_SIZES)


_PAGE_SIZES = range(1, 10)


def _list_by_page_size() -> list[list[int]]:
    return [list_all(page_size=size) for size in _PAGE_SIZES]


@pytest.mark.behaviour("LNS-PRM-18")
def test_cursor_can_be_invisible() -> None:
    with holding(NS.UTS) as [older], Task(NS.ALL) as task, holding(NS.UTS) as [between]:
        task.call(unshare, NS.UTS)
        own = task.call(own_ids)
        assert own[-2] < between.id < own[-1]
        assert task.call(list_page, ListRequest(cursor=older.id)) == own
        assert task.call(list_page, ListRequest(cursor=between.id)) == own[-1:]


@pytest.mark.behaviour("LNS-PRM-20")
def test_what_an_unprivileged_user_learns_of_others(observe: Callable[[str, object], None]) -> None:
    with Task(uid=SOMEBODY) as task, holding(NS.USER, NS.UTS) as [user, _]:
        asked = {
            "cursor_below_others": ListRequest(cursor=max(own_ids())),
            "cursor_above_all": ListRequest(cursor=2**62),
            "owner_of_nothing": ListRequest(owner=user.id),
            "no_such_owner": ListRequest(owner=2**62),
        }
        for name, request in asked.items():
            answer = task.call(_answer, request)
            observe(name, answer)
            assert answer in ("0", "ENOENT" if request.cursor else "EINVAL")


def _answer(request: ListRequest) -> str:
    """How many ids an answer holds, or the name of its errno."""
    try:
        return str(len(list_page(request)))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.behaviour("LNS-PRM-22")
def test_current_user_of_an_unprivileged_caller() -> None:
    with Task(uid=SOMEBODY) as task, holding(NS.UTS) as [stranger]:
        assert stranger.id in list_all(owner=LISTNS_CURRENT_USER)
        assert task.call(list_all, owner=LISTNS_CURRENT_USER) == task.call(own_ids, NS.USER)
