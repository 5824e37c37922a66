# SPDX-License-Identifier: GPL-2.0-only
"""The ioctls that translate a pid from the caller's pid namespace into another, and back."""

import os
import threading
from errno import EINVAL, ESRCH

import pytest
from nslib import (
    NS,
    NS_GET_PID_FROM_PIDNS,
    NS_GET_PID_IN_PIDNS,
    NS_GET_TGID_FROM_PIDNS,
    NS_GET_TGID_IN_PIDNS,
    Sleeper,
    Task,
    children_in,
    configured_types,
    errno_of,
    ioctl,
    open_ns,
    owned,
    pids_by_level,
    sleeper_in,
)

pytestmark = pytest.mark.needs("pid_ns", "pid_translation")

INTO = (NS_GET_PID_IN_PIDNS, NS_GET_TGID_IN_PIDNS)
BACK = (NS_GET_PID_FROM_PIDNS, NS_GET_TGID_FROM_PIDNS)


def translate(ns_of: int, request: int, pid: int) -> int:
    """The result of a request on the pid namespace of the process `ns_of`."""
    with owned(open_ns(NS.PID, ns_of)) as fd:
        return ioctl(fd, request, pid)


def refuse(ns_of: int, request: int, pid: int) -> int:
    """The errno of translate()."""
    return errno_of(translate, ns_of, request, pid)


@pytest.mark.behaviour("PNS-52")
def test_pids_are_translated_both_ways_over_all_levels() -> None:
    with Task(NS.PID) as outer, outer.spawn(NS.PID) as inner:
        pids = pids_by_level(inner.call(sleeper_in))
        assert pids[1:] == [3, 2]
        for into, back in zip(INTO, BACK, strict=True):
            for process, inside in (outer.pid, 3), (inner.pid, 2), (os.getpid(), pids[0]):
                assert translate(process, into, pids[0]) == inside
                assert translate(process, back, inside) == pids[0]
            # Seen from the level between.
            assert outer.call(translate, inner.pid, into, 3) == 2
            assert outer.call(translate, inner.pid, back, 2) == 3


@pytest.mark.behaviour("PNS-52")
def test_pids_of_a_level_above_are_translated_too() -> None:
    with Task(NS.PID) as outer, outer.spawn(NS.PID) as inner:
        assert inner.call(translate, outer.pid, NS_GET_PID_IN_PIDNS, 1) == 2
        assert inner.call(translate, outer.pid, NS_GET_PID_FROM_PIDNS, 2) == 1
        assert inner.call(translate, os.getpid(), NS_GET_PID_FROM_PIDNS, inner.pid) == 1


@pytest.mark.behaviour("PNS-53")
def test_thread_and_its_leader() -> None:
    with Task(NS.PID) as init, init.spawn() as task:
        inside = task.call(_start_thread)
        [outside] = {int(tid) for tid in os.listdir(f"/proc/{task.pid}/task")} - {task.pid}
        assert inside == 3
        assert translate(init.pid, NS_GET_PID_FROM_PIDNS, inside) == outside
        assert translate(init.pid, NS_GET_PID_IN_PIDNS, outside) == inside
        assert translate(init.pid, NS_GET_TGID_FROM_PIDNS, inside) == task.pid
        assert translate(init.pid, NS_GET_TGID_IN_PIDNS, outside) == 2


def _start_thread() -> int:
    """Start a thread that lasts as long as the process; returns its id in its pid namespace."""
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


@pytest.mark.behaviour("PNS-54")
def test_missing_process() -> None:
    with Sleeper() as past:
        gone = past.pid
    with Sleeper(NS.PID) as init:
        for pid in (0, -1, gone, 2**22):
            assert [refuse(init.pid, one, pid) for one in (*INTO, *BACK)] == [ESRCH] * 4


@pytest.mark.behaviour("PNS-54")
def test_process_that_one_side_does_not_see() -> None:
    with Task(NS.PID) as outer, outer.spawn(NS.PID) as inner, Sleeper() as outside:
        for into, back in zip(INTO, BACK, strict=True):
            assert refuse(outer.pid, into, outside.pid) == ESRCH
            assert refuse(inner.pid, into, outer.pid) == ESRCH
            assert outer.call(refuse, inner.pid, into, 1) == ESRCH
            assert inner.call(refuse, os.getpid(), back, outside.pid) == ESRCH
            assert inner.call(refuse, outer.pid, back, 1) == ESRCH


@pytest.mark.behaviour("PNS-54")
def test_other_types_of_namespaces() -> None:
    for kind in configured_types(NS.PID):
        with owned(open_ns(kind)) as fd:
            for request in (*INTO, *BACK):
                assert errno_of(ioctl, fd, request, os.getpid()) == EINVAL


@pytest.mark.behaviour("PNS-55")
def test_zombie_is_translated_until_it_is_reaped() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        with children_in(fd):
            member = Sleeper()
        with member:
            assert member.pids == [member.pid, 2]
            member.zombie()
            for into, back in zip(INTO, BACK, strict=True):
                assert (ioctl(fd, into, member.pid), ioctl(fd, back, 2)) == (2, member.pid)
            member.wait()
        for into, back in zip(INTO, BACK, strict=True):
            assert errno_of(ioctl, fd, into, member.pid) == ESRCH
            assert errno_of(ioctl, fd, back, 2) == ESRCH


@pytest.mark.behaviour("PNS-55")
def test_zombie_init_is_translated_until_it_is_reaped() -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        init.zombie()
        assert (ioctl(fd, INTO[0], init.pid), ioctl(fd, BACK[0], 1)) == (1, init.pid)
        init.wait()
        assert errno_of(ioctl, fd, INTO[0], init.pid) == ESRCH
        assert errno_of(ioctl, fd, BACK[0], 1) == ESRCH
