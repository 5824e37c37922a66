# SPDX-License-Identifier: GPL-2.0-only
"""The child that is made ahead of time, to become a task."""

import os
import signal
from collections.abc import Iterator

import pytest
from nslib import NS, Task, ns_name, serving, standby
from nslib.forking import CLONE_PIDFD, pid_in_proc

from harness.guest import standing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def waiting() -> Iterator[int]:
    """Pid of a child that stands by."""
    serving.stand_by(standing.inherited)
    child = standby.waiting()
    assert child is not None
    yield pid_in_proc(child.pidfd)
    standby.dismiss()


def test_becomes_a_task(waiting: int) -> None:
    with Task() as task:
        assert task.pid == waiting
        assert task.call(os.getpid) == waiting
    assert not standby.is_waiting()


@pytest.mark.parametrize("kinds", [NS.USER, NS.UTS | NS.IPC, NS.USER | NS.NET, NS.MNT])
def test_goes_into_new_namespaces(waiting: int, kinds: NS) -> None:
    with Task(kinds) as task:
        assert task.pid == waiting
        for kind in NS:
            assert (ns_name(kind, task.pid) != ns_name(kind)) == bool(kind & kinds)
        assert task.call(os.getuid) == 0


def test_becomes_a_user(waiting: int) -> None:
    with Task(uid=1000, caps=0) as task:
        assert (task.pid, task.call(os.getuid)) == (waiting, 1000)


@pytest.mark.parametrize("kinds", [NS.PID, NS.TIME])
def test_waits_on_where_only_a_new_child_will_do(waiting: int, kinds: NS) -> None:
    with Task(kinds) as task:
        assert task.pid != waiting
    assert standby.is_waiting()


def test_waits_on_where_a_fd_is_inherited(waiting: int) -> None:
    with Task(keep_fds=[0]) as task:
        assert task.pid != waiting


def test_is_not_taken_when_its_creator_has_changed(waiting: int) -> None:
    umask = os.umask(0o111)
    try:
        with Task() as task:
            assert task.pid != waiting
    finally:
        os.umask(umask)


def test_serves_only_once(waiting: int) -> None:
    with Task() as first, Task() as second:
        assert (first.pid, second.pid != waiting) == (waiting, True)


def test_is_not_its_siblings(waiting: int) -> None:
    with Task(NS.PID) as task, task.spawn() as nested:
        assert waiting not in (task.pid, nested.pid)


def test_failure_to_enter_ends_it(waiting: int) -> None:
    with pytest.raises(OSError, match="Invalid"):
        Task(NS(CLONE_PIDFD))
    assert not standby.is_waiting()
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)


def test_one_that_was_killed_is_not_taken(waiting: int) -> None:
    os.kill(waiting, signal.SIGKILL)
    os.waitid(os.P_PID, waiting, os.WEXITED | os.WNOWAIT)
    with Task() as task:
        assert task.pid != waiting


def test_one_that_was_stopped_is_taken(waiting: int) -> None:
    os.kill(waiting, signal.SIGSTOP)
    os.waitid(os.P_PID, waiting, os.WSTOPPED)
    with Task() as task:
        assert task.call(os.getpid) == waiting


def test_is_dismissed(waiting: int) -> None:
    standby.dismiss()
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)
    standby.dismiss()
