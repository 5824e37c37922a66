# SPDX-License-Identifier: GPL-2.0-only
"""Signals inside a pid namespace and from above: init is protected from its own, not from ours."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
from nslib import (
    NS,
    ExitStatus,
    Sleeper,
    Task,
    children_in_new_pid_ns,
    errno_of,
    ns_name,
    owned,
    settled_state,
    sleeper_in,
    sleepers,
    status_field,
)

pytestmark = pytest.mark.needs("pid_ns")

FATAL = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
UNBLOCKABLE = [signal.SIGKILL, signal.SIGSTOP]
HARMLESS = signal.SIGWINCH  # by default it is ignored
KILLED = ExitStatus(os.CLD_KILLED, signal.SIGKILL)


def send_each(pid: int, numbers: Iterable[int]) -> set[int]:
    """The errnos, 0 for success, of sending signals to a process."""
    return {errno_of(os.kill, pid, number) for number in numbers}


def pending(pid: int) -> set[int]:
    """The signals that a process has not taken yet."""
    mask = int(status_field(pid, "SigPnd"), 16) | int(status_field(pid, "ShdPnd"), 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def assert_untouched(init: Sleeper) -> None:
    """No signal is on its way to the sleeping init, and none has ended or stopped it."""
    assert status_field(init.pid, "State")[0] == "S"
    assert pending(init.pid) == set()
    assert not init.ended()


@contextmanager
def init_and_member() -> Iterator[tuple[Sleeper, Task]]:
    """A new pid namespace with a sleeping init, and a member that is a child of the test."""
    with children_in_new_pid_ns():
        init = Sleeper()
        with init, Task() as member:
            assert (init.pids[1:], member.call(os.getpid)) == ([1], 2)
            settled_state(init.pid)
            yield init, member


@pytest.mark.behaviour("PNS-26", "PNS-27")
def test_init_ignores_signals_from_inside() -> None:
    with init_and_member() as (init, member):
        for numbers in (FATAL, UNBLOCKABLE, signal.valid_signals()):
            assert member.call(send_each, 1, numbers) == {0}
            assert_untouched(init)
        assert member.call(send_each, 1, [signal.SIGCONT]) == {0}
        assert member.reap() == init.reap() == KILLED


@pytest.mark.behaviour("PNS-26", "PNS-27")
def test_init_ignores_signals_from_itself() -> None:
    with Task(NS.PID) as init:
        init.call(signal.signal, signal.SIGINT, signal.SIG_DFL)  # the interpreter catches it
        assert init.call(send_each, 1, [*FATAL, *UNBLOCKABLE]) == {0}
        assert init.call(os.getpid) == 1


@pytest.mark.behaviour("PNS-26", "PNS-27")
def test_init_ignores_signals_through_a_pidfd_from_inside() -> None:
    with init_and_member() as (init, member):
        assert member.call(_send_by_pidfd, 1, [*FATAL, *UNBLOCKABLE]) == {0}
        assert_untouched(init)


def _send_by_pidfd(pid: int, numbers: Iterable[int]) -> set[int]:
    with owned(os.pidfd_open(pid)) as pidfd:
        return {errno_of(signal.pidfd_send_signal, pidfd, number) for number in numbers}


@pytest.mark.behaviour("PNS-28")
def test_ancestor_stops_and_kills_init_but_cannot_terminate_it() -> None:
    with Sleeper(NS.PID) as init:
        settled_state(init.pid)
        for number in FATAL:
            init.kill(number)
        assert_untouched(init)
        init.kill(signal.SIGSTOP)
        assert next_change(init) == (os.CLD_STOPPED, signal.SIGSTOP)
        init.kill(signal.SIGCONT)
        assert next_change(init) == (os.CLD_CONTINUED, signal.SIGCONT)
        init.kill()
        assert init.wait() == KILLED


def next_change(child: Sleeper) -> tuple[int, int]:
    """What a child of the caller does next: it stops, continues or ends (si_code, si_status)."""
    change = os.waitid(os.P_PIDFD, child.pidfd, os.WSTOPPED | os.WCONTINUED | os.WEXITED)
    assert change is not None
    return change.si_code, change.si_status


@pytest.mark.behaviour("PNS-28")
def test_init_of_the_level_above_is_an_ancestor() -> None:
    with Task(NS.PID) as outer:
        inner = outer.call(sleeper_in, NS.PID)
        assert outer.call(send_each, 2, FATAL) == {0}
        assert pending(inner) == set()
        assert outer.call(_kill_and_wait, 2) == -signal.SIGKILL


def _kill_and_wait(child: int) -> int:
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.behaviour("PNS-29")
def test_init_learns_who_sent_a_signal() -> None:
    with Task(NS.PID) as init, init.spawn() as member:
        init.call(_catch)
        init.kill(signal.SIGUSR1)
        assert init.call(_take, signal.SIGUSR1) == 0
        member.call(os.kill, 1, signal.SIGUSR1)
        assert init.call(_take, signal.SIGUSR1) == member.call(os.getpid) == 2
        # Not only what is blocked reaches it.
        member.call(os.kill, 1, signal.SIGUSR2)
        assert init.call(_caught_signals) == [signal.SIGUSR2]
        init.kill(signal.SIGUSR2)
        assert init.call(_caught_signals) == [signal.SIGUSR2] * 2


_caught: list[int] = []


def _catch() -> None:
    """Handle SIGUSR1 and SIGUSR2, and block the first."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _frame: _caught.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])


def _caught_signals() -> list[int]:
    return _caught


def _take(number: int) -> int:
    """Pid of the sender of a pending signal, -1 if there is none."""
    info = signal.sigtimedwait([number], 0)
    return info.si_pid if info else -1


@pytest.mark.behaviour("PNS-30")
def test_signal_to_all_reaches_the_other_members_only() -> None:
    # It is harmless where it should not arrive; who has it blocked keeps it to be seen.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [HARMLESS])
    try:
        with (
            Sleeper() as outside,
            init_and_member() as (init, caller),
            sleepers(2) as members,
        ):
            nested = caller.call(sleeper_in, NS.PID)
            caller.call(_signal_everybody, HARMLESS, ns_name(NS.PID))
            assert [pending(one.pid) for one in members] == [{HARMLESS}] * 2
            assert pending(nested) == {HARMLESS}
            others = (init.pid, caller.pid, outside.pid, os.getpid())
            assert [pending(pid) for pid in others] == [set()] * 4
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_everybody(number: int, never_in: str) -> None:
    """kill(-1), which must not happen in the test's own pid namespace."""
    if ns_name(NS.PID) == never_in:
        raise RuntimeError(never_in)
    os.kill(-1, number)
