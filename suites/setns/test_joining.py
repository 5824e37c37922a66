# SPDX-License-Identifier: GPL-2.0-only
"""setns(2): what changes on success, and that nothing else does."""

import os
import threading
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import chain, combinations
from operator import or_

import pytest
from nslib import (
    NS,
    Idle,
    Task,
    configured_mask,
    configured_types,
    ns_names,
    open_ns,
    owned,
    scaled,
    setns,
)

Names = dict[str, str]


def after_joining(before: Names, target: Names, kinds: NS) -> Names:
    """The names of a task that was in `before` once it has joined types of the target."""
    joined = {kind.link: target[kind.link] for kind in NS if kind & kinds & ~NS.PID}
    if kinds & NS.PID:
        joined["pid_for_children"] = target["pid"]
    if kinds & NS.TIME:
        joined["time_for_children"] = target["time"]
    return before | joined


@pytest.mark.behaviour("SNS-13")
def test_pidfd_and_namespace_file_have_the_same_effect(joiner: Task, whole_target: Task) -> None:
    target, of_target = whole_target, ns_names(whole_target.pid)
    with Task(keep_fds=[target.pidfd]) as by_pidfd:
        for kind in configured_types():
            expected = after_joining(ns_names(joiner.pid), of_target, kind)
            with owned(open_ns(kind, target.pid)) as fd:
                joiner.call(setns, joiner.give(fd), kind)
            by_pidfd.call(setns, target.pidfd, kind)
            assert ns_names(joiner.pid) == expected, kind
            assert ns_names(by_pidfd.pid) == expected, kind


@pytest.mark.behaviour("SNS-14")
def test_all_types_at_once(joiner: Task, whole_target: Task) -> None:
    before, of_target = ns_names(joiner.pid), ns_names(whole_target.pid)
    joiner.call(setns, joiner.give(whole_target.pidfd), configured_mask())
    assert ns_names(joiner.pid) == of_target | {"pid": before["pid"]}
    with joiner.spawn() as child:
        assert ns_names(child.pid) == of_target
    assert ns_names(whole_target.pid) == of_target


@pytest.mark.behaviour("SNS-15")
def test_only_the_requested_types_change(joiner: Task, whole_target: Task) -> None:
    with owned(os.pidfd_open(os.getpid())) as home:
        pidfds = joiner.give(whole_target.pidfd), joiner.give(home)
        assert joiner.call(_join_subsets, *pidfds, whole_target.pid) == []


def _join_subsets(target: int, home: int, pid: int) -> list[NS]:
    """Join each combination of types, and return from it; gives those that went wrong."""
    kinds = configured_mask(NS.USER)
    before, of_target = ns_names(), ns_names(pid)
    wrong = []
    for some in _combinations(configured_types(NS.USER)):
        setns(target, some)
        if ns_names() != after_joining(before, of_target, some):
            wrong.append(some)
        setns(home, kinds)
        if ns_names() != before:
            wrong.append(some)
    return wrong


def _combinations(kinds: list[NS]) -> Iterator[NS]:
    """Single types, pairs, and all but one."""
    sizes = 1, 2, len(kinds) - 1
    subsets: Iterable[tuple[NS, ...]] = chain.from_iterable(combinations(kinds, n) for n in sizes)
    return (reduce(or_, subset) for subset in subsets)


@pytest.mark.needs("user_ns", "uts_ns", "ipc_ns")
@pytest.mark.behaviour("SNS-15")
@pytest.mark.parametrize("others", [NS.NONE, NS.IPC | NS.MNT], ids=["alone", "two"])
def test_only_the_requested_types_change_beside_the_user_namespace(
    others: NS, joiner: Task, target: Idle
) -> None:
    expected = after_joining(ns_names(joiner.pid), ns_names(target.pid), NS.USER | others)
    joiner.call(setns, joiner.give(target.pidfd), NS.USER | others)
    assert ns_names(joiner.pid) == expected


@pytest.mark.behaviour("SNS-37")
def test_joining_where_one_is_changes_nothing(joiner: Task) -> None:
    before = ns_names(joiner.pid)
    with owned(os.pidfd_open(os.getpid())) as home:
        pidfd = joiner.give(home)
        for kinds in (*configured_types(NS.USER), configured_mask(NS.USER)):
            joiner.call(setns, pidfd, kinds)
            assert ns_names(joiner.pid) == before, kinds
    for kind in configured_types(NS.USER):
        joiner.call(_rejoin, kind)
        assert ns_names(joiner.pid) == before, kind


def _rejoin(kind: NS) -> None:
    with owned(open_ns(kind)) as fd:
        setns(fd, kind)


@pytest.mark.behaviour("SNS-38")
def test_only_the_calling_thread_joins(joiner: Task, target: Idle) -> None:
    before, of_target = ns_names(joiner.pid), ns_names(target.pid)
    kinds = configured_mask(NS.USER, NS.MNT, NS.TIME)
    expected = after_joining(before, of_target, kinds)
    pidfd = joiner.give(target.pidfd)
    in_thread, main = joiner.call(_names_after_a_thread_joined, pidfd, kinds)
    assert (in_thread, main) == (expected, before)
    in_thread, main = joiner.call(_names_after_main_joined, pidfd, kinds)
    assert (in_thread, main) == (before, expected)


def _names_after_a_thread_joined(pidfd: int, kinds: NS) -> tuple[Names, Names]:
    """Names in a thread after it joined, and in the main thread."""
    found: list[Names] = []

    def join() -> None:
        for kind in kinds:
            setns(pidfd, kind)
        found.append(ns_names())

    thread = threading.Thread(target=join)
    thread.start()
    thread.join()
    return found[0], ns_names()


def _names_after_main_joined(pidfd: int, kinds: NS) -> tuple[Names, Names]:
    """Names in a thread after the main one joined, and in that."""
    started, joined = threading.Event(), threading.Event()
    found: list[Names] = []

    def look() -> None:
        started.set()
        joined.wait(scaled(5))
        found.append(ns_names())

    thread = threading.Thread(target=look)
    thread.start()
    started.wait(scaled(5))
    setns(pidfd, kinds)
    joined.set()
    thread.join()
    return found[0], ns_names()
