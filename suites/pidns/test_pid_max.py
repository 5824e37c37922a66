# SPDX-License-Identifier: GPL-2.0-only
"""pid_max: how many pids a pid namespace gives out, itself and for those below it."""

from collections.abc import Iterator
from errno import EACCES, EAGAIN, EINVAL
from pathlib import Path

import pytest
from nslib import (
    NS,
    SOMEBODY,
    Cap,
    Task,
    errno_of,
    get_sysctl,
    open_sysctl,
    pids_by_level,
    set_sysctl,
    sleeper_errno,
    sleeper_in,
)

pytestmark = pytest.mark.needs("pid_ns", "user_ns", "ns_last_pid")

PID_MAX_LIMIT = 4194304  # include/linux/threads.h, on 64-bit systems
RESERVED_PIDS, PIDS_PER_CPU = 300, 8  # kernel/pid.c, include/linux/threads.h


def smallest_pid_max() -> int:
    """What the kernel takes for the least that it can do with (pid_idr_init() in kernel/pid.c)."""
    last_cpu = Path("/sys/devices/system/cpu/possible").read_text().replace("-", ",").split(",")[-1]
    return max(RESERVED_PIDS + 1, PIDS_PER_CPU * (int(last_cpu) + 1))


@pytest.fixture
def init() -> Iterator[Task]:
    """The init of a new pid namespace with a pid_max of its own.

    Before 6.14 there is only one for all (commit 7863dcc72d0f), and this task may not write it: it
    is not the real root.
    """
    with Task(NS.USER | NS.PID, uid=SOMEBODY, caps=Cap.ALL) as task:
        if task.call(errno_of, open_sysctl, "kernel/pid_max") == EACCES:
            pytest.skip("needs a pid_max for each pid namespace (Linux 6.14)")
        yield task


@pytest.mark.behaviour("PNS-45")
def test_each_namespace_has_its_own(init: Task) -> None:
    outside, small = get_sysctl("kernel/pid_max"), smallest_pid_max()
    with init.spawn(NS.PID) as inner:
        assert init.call(get_sysctl, "kernel/pid_max") == PID_MAX_LIMIT
        init.call(set_sysctl, "kernel/pid_max", small)
        assert init.call(get_sysctl, "kernel/pid_max") == small
        assert inner.call(get_sysctl, "kernel/pid_max") == PID_MAX_LIMIT
        inner.call(set_sysctl, "kernel/pid_max", 500 + small)
        assert init.call(get_sysctl, "kernel/pid_max") == small
    assert get_sysctl("kernel/pid_max") == outside


@pytest.mark.behaviour("PNS-45")
def test_pids_run_out_at_the_limit(init: Task) -> None:
    small = smallest_pid_max()
    init.call(set_sysctl, "kernel/pid_max", small)
    # From here the search starts at 300.
    init.call(set_sysctl, "kernel/ns_last_pid", small - 2)
    left = range(RESERVED_PIDS, small)
    got = [pids_by_level(init.call(sleeper_in))[1] for _ in left]
    assert sorted(got) == list(left)
    assert init.call(sleeper_errno) == EAGAIN
    init.call(set_sysctl, "kernel/pid_max", small + 1)
    assert pids_by_level(init.call(sleeper_in))[1] == small
    assert init.call(sleeper_errno) == EAGAIN


@pytest.mark.behaviour("PNS-45")
def test_limit_of_an_ancestor_applies_too(init: Task) -> None:
    small = smallest_pid_max()
    with init.spawn(NS.PID) as inner:
        init.call(set_sysctl, "kernel/pid_max", small)
        init.call(set_sysctl, "kernel/ns_last_pid", small - 2)
        left = range(RESERVED_PIDS, small)
        got = [pids_by_level(inner.call(sleeper_in))[1:] for _ in left]
        assert sorted(got) == [[pid, 2 + number] for number, pid in enumerate(left)]
        assert inner.call(sleeper_errno) == EAGAIN
        init.call(set_sysctl, "kernel/pid_max", small + 1)
        assert pids_by_level(inner.call(sleeper_in))[1] == small


@pytest.mark.behaviour("PNS-46")
def test_range(init: Task) -> None:
    small = smallest_pid_max()
    for wrong in (-1, 0, 1, small - 1, PID_MAX_LIMIT + 1, 2**31, 2**32 + small):
        assert init.call(errno_of, set_sysctl, "kernel/pid_max", wrong) == EINVAL
        assert init.call(get_sysctl, "kernel/pid_max") == PID_MAX_LIMIT
    for right in (small, PID_MAX_LIMIT):
        init.call(set_sysctl, "kernel/pid_max", right)
        assert init.call(get_sysctl, "kernel/pid_max") == right
