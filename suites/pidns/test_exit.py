# SPDX-License-Identifier: GPL-2.0-only
"""The end of init is the end of its pid namespace: it takes every member with it, and waits until
nobody holds one of the namespace's pids any more (zap_pid_ns_processes())."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import ENOMEM, ESRCH

import pytest
from nslib import (
    NS,
    ExitStatus,
    Sleeper,
    Task,
    children_in,
    errno_of,
    open_ns,
    owned,
    parent_of,
    settled_state,
    sleeper_errno,
    sleeper_in,
    sleepers,
    start_sleeper,
    status_field,
    syscall,
    wait_until,
)

pytestmark = pytest.mark.needs("pid_ns")

SYS_EXIT = 60  # arch/x86/entry/syscalls/syscall_64.tbl; of the thread, unlike os._exit()
KILLED = ExitStatus(os.CLD_KILLED, signal.SIGKILL)


@contextmanager
def injected(init: Sleeper, count: int = 1) -> Iterator[list[Sleeper]]:
    """Members of init's pid namespace whose parent is the test."""
    with owned(open_ns(NS.PID, init.pid)) as fd, ExitStack() as members:
        with children_in(fd):
            made = members.enter_context(sleepers(count))
        yield made


def assert_blocked(init: Sleeper) -> None:
    """The killed init waits for something, and is no zombie that could be reaped."""
    for _ in range(2):
        assert settled_state(init.pid) != "Z"
        assert not init.ended(0.002)
    assert os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED | os.WNOHANG) is None


@pytest.mark.behaviour("PNS-17")
def test_end_of_init_kills_every_member() -> None:
    with Sleeper(NS.PID) as init, injected(init, 5) as members:
        assert [member.pids[1] for member in members] == [2, 3, 4, 5, 6]
        init.kill()
        assert [member.wait() for member in members] == [KILLED] * 5
        assert init.wait() == KILLED


@pytest.mark.behaviour("PNS-17")
@pytest.mark.parametrize("how", [KILLED, ExitStatus(os.CLD_EXITED, 7)], ids=["killed", "exited"])
def test_none_is_left_when_init_is_reaped(how: ExitStatus) -> None:
    with Task(NS.PID) as init, init.spawn(NS.PID) as nested:
        # They must not die for another reason, which is that their parent does.
        pidfds = [init.fetch(start_sleeper, death_signal=0) for _ in range(3)]
        pidfds += [nested.fetch(start_sleeper, death_signal=0) for _ in range(2)]
        if how == KILLED:
            init.kill()
        else:
            init.begin(os._exit, how.status)
        assert init.wait() == how
        assert [errno_of(signal.pidfd_send_signal, fd, 0) for fd in pidfds] == [ESRCH] * 5
        assert errno_of(nested.kill) == ESRCH
        for fd in pidfds:
            os.close(fd)


@pytest.mark.behaviour("PNS-24")
def test_each_zombie_of_an_outside_parent_blocks_init() -> None:
    with Sleeper(NS.PID) as init, injected(init, 2) as members:
        init.kill()
        for member in members:
            assert member.wait(reap=False) == KILLED
        for member in members:
            assert_blocked(init)
            member.wait()
        assert init.wait() == KILLED


@pytest.mark.behaviour("PNS-25")
def test_process_group_of_an_outside_task_blocks_init() -> None:
    with Sleeper(NS.PID) as init, Sleeper() as outside:
        with injected(init) as [member]:
            os.setpgid(member.pid, member.pid)
            os.setpgid(outside.pid, member.pid)
            init.kill()
            assert member.wait() == KILLED
        assert_blocked(init)
        os.setpgid(outside.pid, outside.pid)
        assert init.wait() == KILLED


@pytest.mark.behaviour("PNS-60")
def test_namespace_ends_with_the_last_thread_of_init() -> None:
    with Task(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        reader, writer = os.pipe()
        with owned(reader), owned(writer):
            init.call(_leave_a_thread, init.give(reader))
            child = init.call(sleeper_in, death_signal=0)
            init.begin(syscall, SYS_EXIT, 0)
            wait_until(lambda: status_field(init.pid, "State")[0] == "Z", "end of init's leader")
            with children_in(fd), Sleeper() as member:
                assert member.pids[1:] == [4]  # after two threads and a child
                assert os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED | os.WNOHANG) is None
                assert (parent_of(child), settled_state(child)) == (init.pid, "S")
                os.write(writer, b"x")
                assert member.wait() == KILLED
                assert init.wait() == ExitStatus(os.CLD_EXITED, 0)
                assert sleeper_errno() == ENOMEM


def _leave_a_thread(reader: int) -> None:
    """Start a thread that lives until something can be read."""
    threading.Thread(target=_exit_after_reading, args=[reader], daemon=True).start()


def _exit_after_reading(reader: int) -> None:
    os.read(reader, 1)
    syscall(SYS_EXIT, 0)
