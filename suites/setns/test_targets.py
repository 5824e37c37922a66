# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd: which tasks can be the target, and whose namespaces are meant."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ESRCH
from pathlib import Path

import pytest
from nslib import (
    NS,
    Idle,
    Task,
    configured_mask,
    configured_types,
    end_child,
    errno_of,
    fork_into,
    ns_name,
    ns_names,
    owned,
    scaled,
    setns,
    syscall,
    unshare,
    wait_until,
)

PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h
SYS_EXIT = 60  # of the calling thread only (arch/x86/entry/syscalls/syscall_64.tbl)


def refusals(pidfd: int) -> set[int]:
    """What setns() answers for each type alone, and for all of them."""
    return {errno_of(setns, pidfd, kinds) for kinds in (*configured_types(), configured_mask())}


@pytest.mark.behaviour("SNS-07", "SNS-08")
def test_zombie_is_no_target() -> None:
    before = ns_names()
    with Idle(configured_mask(NS.TIME)) as target:
        target.zombie()
        assert {"user", "pid"} == ns_names(target.pid).keys()  # They can be opened all the same.
        assert refusals(target.pidfd) == {ESRCH}
    assert ns_names() == before


@pytest.mark.behaviour("SNS-09")
def test_reaped_task_is_no_target() -> None:
    before = ns_names()
    with Idle(configured_mask(NS.TIME)) as target:
        target.reap()
        assert refusals(target.pidfd) == {ESRCH}
    assert ns_names() == before


@contextmanager
def leaderless_process() -> Iterator[tuple[int, int]]:
    """A process in its own uts namespace whose leader has exited while another thread lives on:
    (pid, pidfd)."""
    pid, pidfd = fork_into(NS.UTS)
    if pid == 0:
        try:
            threading.Thread(target=signal.pause).start()
            syscall(SYS_EXIT, 0)
        finally:
            os._exit(1)
    try:
        wait_until(lambda: _state(pid) == "Z", "exit of the leader")
        yield pid, pidfd
    finally:
        end_child(pidfd)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.behaviour("SNS-10")
def test_leader_that_has_exited_is_no_target() -> None:
    before = ns_names()
    with leaderless_process() as (pid, pidfd):
        [other] = {int(thread) for thread in os.listdir(f"/proc/{pid}/task")} - {pid}
        assert ns_name(NS.UTS, f"{pid}/task/{other}") != before["uts"]
        assert refusals(pidfd) == {ESRCH}
    assert ns_names() == before


@pytest.mark.needs("thread_pidfds", "uts_ns", "ipc_ns")
@pytest.mark.behaviour("SNS-39")
def test_thread_pidfd_stands_for_the_namespaces_of_the_thread(joiner: Task) -> None:
    of_thread, joined, main, errno_when_gone = joiner.call(_join_own_thread)
    assert joined == of_thread
    assert {link for link in main if main[link] != of_thread[link]} == {"uts", "ipc"}
    assert errno_when_gone == ESRCH


def _join_own_thread() -> tuple[dict[str, str], dict[str, str], dict[str, str], int]:
    """Names of a thread's namespaces, of the main thread's after it joined them by a pidfd of the
    thread, and after it joined those of the whole process; errno with a pidfd of the dead thread.
    """
    both = threading.Barrier(2, timeout=scaled(5))
    found: list[dict[str, str]] = []

    def leave() -> None:
        unshare(NS.UTS | NS.IPC)
        found.append(ns_names())
        both.wait()
        both.wait()

    main = ns_names()
    thread = threading.Thread(target=leave)
    thread.start()
    both.wait()
    with (
        owned(os.pidfd_open(thread.native_id or 0, PIDFD_THREAD)) as pidfd,
        owned(os.pidfd_open(os.getpid())) as own,
    ):
        setns(own, NS.UTS | NS.IPC)
        assert ns_names() == main
        setns(pidfd, NS.UTS | NS.IPC)
        joined = ns_names()
        both.wait()
        thread.join()
        wait_until(lambda: _is_gone(thread), "end of the thread")
        return found[0], joined, main, errno_of(setns, pidfd, NS.UTS)


def _is_gone(thread: threading.Thread) -> bool:
    with suppress(FileNotFoundError):
        return not os.stat(f"/proc/self/task/{thread.native_id}")
    return True
