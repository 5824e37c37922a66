# SPDX-License-Identifier: GPL-2.0-only
"""A pid namespace whose init dies while outsiders fork into it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from errno import EINTR, EINVAL, ENOMEM

import pytest
from nslib import NS, Idle, Task, errno_of_joining, wait_until

pytestmark = pytest.mark.needs("pid_ns")

MOST_FORKS = 4000


def fork_until_refused() -> tuple[int, set[tuple[int, int]]]:
    """Fork until that fails; gives the errno, and how the children ended."""
    children: list[Idle] = []
    errno = 0
    try:
        while not errno and len(children) < MOST_FORKS:
            children.append(Idle())
    except OSError as error:
        errno = error.errno or 0
    return errno, {_end_of(child) for child in children}


def _end_of(child: Idle) -> tuple[int, int]:
    """How a child ended, by itself or for want of an init that ended it."""
    with child:
        ended = wait_until(lambda: _poll(child.pidfd), "end of a child of a dead namespace")
        assert ended
        return ended.si_code, ended.si_status


def _poll(pidfd: int) -> os.waitid_result | None:
    return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)


@pytest.mark.behaviour("REG-15")
def test_outsiders_fork_while_init_dies() -> None:
    with Task(NS.PID) as init, Task() as one, Task() as other:
        for task in (one, other):
            assert errno_of_joining(task, init, NS.PID) == 0
        with ThreadPoolExecutor(2) as pool:
            forking = [pool.submit(task.call, fork_until_refused) for task in (one, other)]
            wait_until(lambda: _members(init) > 4, "children in the namespace")
            init.kill()
            results = [running.result() for running in forking]
        for errno, ends in results:
            assert errno in (ENOMEM, EINTR, EINVAL)
            assert ends <= {(os.CLD_KILLED, signal.SIGKILL)}
        wait_until(lambda: _poll(init.pidfd), "end of init")
        assert one.call(fork_until_refused)[0] == ENOMEM


def _members(init: Task) -> int:
    """Number of the newest process in the namespace of `init`."""
    return init.call(_newest)


def _newest() -> int:
    return int(open("/proc/loadavg").read().split()[-1])


@pytest.mark.behaviour("REG-15")
def test_init_ends_when_an_outsider_reaps_the_last_member() -> None:
    with Task(NS.PID) as init, Task() as outsider:
        assert errno_of_joining(outsider, init, NS.PID) == 0
        with outsider.spawn() as member:
            init.kill()
            member.wait(reap=False)  # Killed by the end of init, and not reaped.
            for _ in range(20):
                assert not _poll(init.pidfd)
            member.reap()
            wait_until(lambda: _poll(init.pidfd), "end of init")
