# SPDX-License-Identifier: GPL-2.0-only
"""Forks at once into a pid namespace that has no init yet: one of them makes it, and only one."""

import ctypes
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from errno import EINVAL

import pytest
from nslib import (
    NS,
    Sleeper,
    children_in,
    children_in_new_pid_ns,
    errno_of,
    hold,
    ns_name,
    owned,
    start_sleeper,
)

pytestmark = pytest.mark.needs("pid_ns", "pidfd_ioctls")

ROUNDS = 30


@pytest.fixture(autouse=True)
def joinable_without_init() -> None:
    """Before Linux 7.1 nobody but its maker could enter such a namespace (commit a3bdc23ba8ea)."""
    with children_in_new_pid_ns():
        if errno_of(ns_name, "pid_for_children"):
            pytest.skip("needs pid namespaces that can be joined without init (Linux 7.1)")


@pytest.mark.behaviour("PNS-16")
def test_of_two_forks_at_once_one_makes_init(observe: Callable[[str, object], None]) -> None:
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as threads:
        for _ in range(ROUNDS):
            missing = ctypes.c_int(2)
            with owned(hold(NS.PID).fd) as fd:
                forks = [threads.submit(_fork_in, fd, missing) for _ in range(2)]
                made = dict(fork.result() for fork in forks)
                made |= [_fork_in(fd)]
            pids = sorted(made)
            for pid in reversed(pids):  # init last, which waits for the others
                if child := made[pid]:
                    child.close()
            # A loser leaves the third fork its pid, or a gap.
            assert pids in ([1, 2, 3], [-EINVAL, 1, 2], [-EINVAL, 1, 3])
            outcomes["both" if pids[0] == 1 else "one"] += 1
    observe("forks_that_succeed", dict(outcomes))


def _fork_in(fd: int, missing: ctypes.c_int | None = None) -> tuple[int, Sleeper | None]:
    """Fork into a pid namespace, in threads at the same time; returns the child's pid in there and
    the child, or the negative errno."""
    with children_in(fd):
        try:
            child = Sleeper(pidfd=start_sleeper(missing=missing))
        except OSError as error:
            return -(error.errno or 0), None
        return child.pids[-1], child
