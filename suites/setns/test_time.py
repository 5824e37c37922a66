# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) to a time namespace: at once, but not with threads."""

import threading
import time
from errno import EPERM, EUSERS
from pathlib import Path

import pytest
from nslib import (
    NS,
    SOMEBODY,
    Idle,
    Task,
    errno_of,
    errno_of_joining,
    ns_name,
    ns_names,
    open_ns,
    owned,
    setns,
    unshare,
)

pytestmark = pytest.mark.needs("time_ns")

MONOTONIC_SHIFT, BOOTTIME_SHIFT = 1000, 5000


def errno_with_threads(fd: int, flags: int) -> list[int]:
    """The errno of setns() in a second thread."""
    errnos: list[int] = []
    thread = threading.Thread(target=lambda: errnos.append(errno_of(setns, fd, flags)))
    thread.start()
    thread.join()
    return errnos


def errno_with_shared_memory(fd: int, flags: int) -> int:
    """The errno of setns() in a process that shares its memory with another."""
    with Idle():
        return errno_of(setns, fd, flags)


@pytest.mark.behaviour("SNS-33")
def test_process_with_threads_or_shared_memory_cannot_join() -> None:
    with Task(NS.TIME) as foreign, Task(uid=SOMEBODY, caps=0) as joiner:
        with owned(open_ns(NS.TIME, foreign.pid)) as of_foreign:
            fd = joiner.give(of_foreign)
        assert joiner.call(errno_of, setns, fd, NS.TIME) == EPERM
        assert joiner.call(errno_with_threads, fd, NS.TIME) == [EUSERS]
        assert joiner.call(errno_with_shared_memory, fd, NS.TIME) == EUSERS


@pytest.mark.behaviour("SNS-33")
def test_root_with_threads_cannot_join(joiner: Task, target: Idle) -> None:
    before = ns_names(joiner.pid)
    fd = joiner.give(target.pidfd)
    for kinds in (NS.TIME, NS.TIME | NS.UTS):
        assert joiner.call(errno_with_threads, fd, kinds) == [EUSERS]
        assert joiner.call(errno_with_shared_memory, fd, kinds) == EUSERS
    assert ns_names(joiner.pid) == before
    assert joiner.call(errno_of, setns, fd, NS.TIME) == 0


@pytest.mark.behaviour("SNS-34")
def test_clocks_shift_at_once(joiner: Task) -> None:
    with Task() as creator:
        creator.call(unshare, NS.TIME)
        offsets = f"monotonic {MONOTONIC_SHIFT} 0\nboottime {BOOTTIME_SHIFT} 0\n"
        creator.call(Path("/proc/self/timens_offsets").write_text, offsets)
        assert _shifts(joiner) == [0, 0, 0]
        with owned(open_ns("time_for_children", creator.pid)) as fd:
            joiner.call(setns, joiner.give(fd), NS.TIME)
        joined = ns_name("time_for_children", creator.pid)
        assert joined != ns_name(NS.TIME)
        # The creator itself is still in its old namespace, and joins by the joiner's pidfd.
        assert errno_of_joining(creator, joiner, NS.TIME) == 0
        for task in (joiner, creator):
            assert ns_name(NS.TIME, task.pid) == joined
            assert ns_name("time_for_children", task.pid) == joined
            assert _shifts(task) == [MONOTONIC_SHIFT, BOOTTIME_SHIFT, BOOTTIME_SHIFT]


def _shifts(task: Task) -> list[int]:
    """How many seconds the task's clocks are ahead: monotonic, boottime, and that of /proc."""
    before, inside, after = _clocks(), task.call(_clocks), _clocks()
    shifts = [round(there - here) for here, there in zip(before, inside, strict=True)]
    # The clocks are read in between, so that the shift is exact as long as that took no second.
    for low, there, high, shift in zip(before, inside, after, shifts, strict=True):
        assert low + shift <= there <= high + shift + 0.5
    return shifts


def _clocks() -> list[float]:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return [
        time.clock_gettime(time.CLOCK_MONOTONIC),
        time.clock_gettime(time.CLOCK_BOOTTIME),
        uptime,
    ]


@pytest.mark.behaviour("SNS-35")
def test_time_namespace_of_the_target_is_joined(joiner: Task) -> None:
    before = ns_names(joiner.pid)
    with Task() as target:
        target.call(unshare, NS.TIME)
        joiner.call(unshare, NS.TIME)
        assert errno_of_joining(joiner, target, NS.TIME) == 0
        assert ns_names(joiner.pid) == before
