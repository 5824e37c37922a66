# SPDX-License-Identifier: GPL-2.0-only
"""Who is the parent of a process that has lost its own, inside a pid namespace or half outside."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from nslib import (
    NS,
    Sleeper,
    Task,
    open_ns,
    owned,
    parent_of,
    prctl,
    setns,
    sleeper_in,
)

pytestmark = pytest.mark.needs("pid_ns")

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h, as all of this block
PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def as_subreaper() -> Iterator[None]:
    """The caller gets the orphans among its descendants."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)


@pytest.mark.behaviour("PNS-22")
def test_orphan_goes_to_the_nearest_subreaper_inside_then_to_init() -> None:
    # A subreaper outside, such as the caller, does not count.
    with as_subreaper(), Task(NS.PID) as init:
        subreaper = init.spawn()
        subreaper.call(prctl, PR_SET_CHILD_SUBREAPER, 1)
        parent = subreaper.spawn()
        orphan = parent.call(sleeper_in, death_signal=0)
        assert parent_of(orphan) == parent.pid
        parent.reap()
        assert parent_of(orphan) == subreaper.pid
        subreaper.reap()
        assert parent_of(orphan) == init.pid


@pytest.mark.behaviour("PNS-22")
def test_orphan_is_inside_the_child_of_pid_1() -> None:
    with Task(NS.PID) as init, init.spawn() as parent, parent.spawn() as orphan:
        orphan.call(prctl, PR_SET_PDEATHSIG, 0)
        assert orphan.call(os.getppid) == 2
        parent.kill()
        parent.wait()
        assert orphan.call(os.getppid) == 1


@pytest.mark.behaviour("PNS-23")
def test_injected_process_stays_the_child_of_an_outsider() -> None:
    with as_subreaper(), Sleeper(NS.PID) as init, Task() as parent:
        with owned(open_ns(NS.PID, init.pid)) as fd:
            parent.call(setns, parent.give(fd), NS.PID)
        injected = parent.spawn()
        injected.call(prctl, PR_SET_PDEATHSIG, 0)
        assert injected.call(os.getpid) == 2
        assert injected.call(os.getppid) == 0
        parent.kill()
        parent.wait()
        assert injected.call(os.getppid) == 0
        assert parent_of(injected.pid) == os.getpid()
        # As its new parent the test has to reap it, or its init could not end.
        with Sleeper(pidfd=os.dup(injected.pidfd)):
            pass
