# SPDX-License-Identifier: GPL-2.0-only
"""What a member of a pid namespace can reach outside: nothing by number, little by pidfd."""

import os
import signal
from errno import EINVAL, ESRCH

import pytest
from nslib import (
    CLONE_PARENT,
    NS,
    Sleeper,
    Task,
    errno_of,
    parent_of,
    pids_by_level,
    sleeper_errno,
    sleeper_in,
    start_sleeper,
)

pytestmark = pytest.mark.needs("pid_ns")


def errnos_of_number(pid: int) -> list[int]:
    """The errnos of what names a process, or a group, by its number."""
    calls = (os.pidfd_open, os.getpgid, os.getsid, os.sched_getaffinity)
    kills = [errno_of(os.kill, pid, 0), errno_of(os.killpg, pid, 0)]
    return kills + [errno_of(call, pid) for call in calls]


@pytest.mark.behaviour("PNS-31")
def test_numbers_outside_mean_nothing_inside() -> None:
    with Task(NS.PID) as init, Sleeper() as outside, Sleeper(NS.PID) as stranger:
        os.setpgid(outside.pid, outside.pid)
        for pid in (outside.pid, stranger.pid, init.pid, os.getpid()):
            assert init.call(errnos_of_number, pid) == [ESRCH] * 6


@pytest.mark.behaviour("PNS-31")
def test_numbers_of_the_level_above_mean_others_or_nothing() -> None:
    with Task(NS.PID) as outer, outer.spawn(NS.PID) as inner:
        for pids in ([3, 2], [4, 3]):
            assert pids_by_level(inner.call(sleeper_in))[1:] == pids
        assert [inner.call(errno_of, os.kill, pid, 0) for pid in (3, 4)] == [0, ESRCH]
        assert [outer.call(errno_of, os.kill, pid, 0) for pid in (3, 4, 5)] == [0, 0, ESRCH]


@pytest.mark.behaviour("PNS-32")
def test_pidfd_sends_no_signal_out_of_the_namespace() -> None:
    send = signal.pidfd_send_signal
    with Task(NS.PID) as init, Sleeper() as outside, Sleeper(NS.PID) as stranger:
        for pidfd in (outside.pidfd, stranger.pidfd):
            assert init.call(errno_of, send, init.give(pidfd), 0) == EINVAL
            assert init.call(errno_of, send, init.give(pidfd), signal.SIGKILL) == EINVAL
        assert not outside.ended()
        assert not stranger.ended()


@pytest.mark.behaviour("PNS-32")
def test_pidfd_sends_signals_to_members_and_descendants() -> None:
    with Task(NS.PID) as init:
        for flags in (NS.NONE, NS.PID):
            pidfd = init.call(start_sleeper, flags)
            assert init.call(kill_child, pidfd) == signal.SIGKILL
        assert init.call(errno_of, signal.pidfd_send_signal, init.give(init.pidfd), 0) == 0


def kill_child(pidfd: int) -> int:
    """Kill a child by its pidfd, and return the signal that ended it."""
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    end = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    return end.si_status if end and end.si_code == os.CLD_KILLED else 0


@pytest.mark.behaviour("PNS-33")
def test_init_cannot_make_siblings() -> None:
    with Task(NS.PID) as init, init.spawn() as member:
        assert init.call(sleeper_errno, CLONE_PARENT) == EINVAL
        assert init.call(sleeper_errno, CLONE_PARENT | NS.PID) == EINVAL
        sibling = member.call(sleeper_in, CLONE_PARENT)
        assert parent_of(sibling) == init.pid


@pytest.mark.behaviour("PNS-33")
def test_child_of_the_same_parent_that_is_no_init_can() -> None:
    with Task() as task, Sleeper(pidfd=task.fetch(start_sleeper, CLONE_PARENT)) as sibling:
        assert parent_of(sibling.pid) == os.getpid()
