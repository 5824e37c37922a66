# SPDX-License-Identifier: GPL-2.0-only
"""Sleepers of the suites: processes without memory of their own."""

import os
import signal
from errno import EINVAL, ESRCH
from pathlib import Path

import pytest
from nslib import (
    NS,
    ExitStatus,
    Sleeper,
    Task,
    children_in_new_pid_ns,
    errno_of,
    ns_name,
    open_ns,
    owned,
    parent_of,
    pids_by_level,
    settled_state,
    sleeper_errno,
    sleeper_in,
    sleepers,
    start_sleeper,
    status_field,
    wait_until,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}/status").exists()


class TestSleeper:
    def test_is_a_child_that_sleeps_until_the_block_ends(self) -> None:
        with Sleeper() as sleeper:
            assert parent_of(sleeper.pid) == os.getpid()
            assert sleeper.pids == [sleeper.pid]
            assert settled_state(sleeper.pid) == "S"
            assert not sleeper.ended()
        assert not _exists(sleeper.pid)

    def test_holds_no_fd(self) -> None:
        with owned(open_ns(NS.UTS)), Sleeper() as sleeper:
            assert list(Path(f"/proc/{sleeper.pid}/fd").iterdir()) == []

    def test_has_no_handlers_of_its_creator(self) -> None:
        before = signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
        try:
            with Sleeper() as sleeper:
                assert int(status_field(sleeper.pid, "SigCgt"), 16) == 0
                sleeper.kill(signal.SIGUSR1)
                assert sleeper.wait() == ExitStatus(os.CLD_KILLED, signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_can_be_left_a_zombie(self) -> None:
        with Sleeper() as sleeper:
            assert sleeper.zombie() == ExitStatus(os.CLD_KILLED, signal.SIGKILL)
            assert settled_state(sleeper.pid) == "Z"
            assert sleeper.reap() == ExitStatus(os.CLD_KILLED, signal.SIGKILL)
            assert errno_of(sleeper.kill) == ESRCH

    def test_ends_with_its_creator(self) -> None:
        with Task() as task:
            pid = task.call(sleeper_in)
            assert parent_of(pid) == task.pid
        wait_until(lambda: not _exists(pid) or settled_state(pid) == "Z", "end of the sleeper")

    def test_that_does_not_end_is_not_waited_for_long(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nslib.sleeping._END_SECONDS", 0.01)
        with Sleeper() as sleeper, pytest.raises(TimeoutError, match="does not end"):
            sleeper.wait()

    def test_many(self) -> None:
        with sleepers(3) as made:
            pids = {one.pid for one in made}
            assert len(pids) == 3
        assert not any(map(_exists, pids))
        with sleepers(0) as made:
            assert made == []


class TestErrno:
    def test_of_a_failure_leaves_no_fd(self) -> None:
        before = os.listdir("/proc/self/fd")  # noqa: PTH208 (a glob would open more)
        assert sleeper_errno(set_tid=(0,)) == EINVAL
        assert sleeper_errno() == 0
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


class TestChildNamespace:
    def test_is_left_after_the_block(self) -> None:
        with children_in_new_pid_ns():
            with owned(start_sleeper()) as pidfd:
                taken = Sleeper(pidfd=os.dup(pidfd))
            with taken:
                assert pids_by_level(taken.pid) == [taken.pid, 1]
        assert ns_name("pid_for_children") == ns_name(NS.PID)
