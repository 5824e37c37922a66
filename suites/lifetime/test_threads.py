# SPDX-License-Identifier: GPL-2.0-only
"""Threads: they share namespaces like processes, and each can have some of its own."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nslib import (
    NS,
    Task,
    execute,
    id_behind,
    id_of,
    ids_in,
    ns_id,
    replace_by_program,
    scaled,
    unshare,
    visible,
    wait_until,
    wait_until_invisible,
)

pytestmark = pytest.mark.needs("active_refs", "id_handles")

SYS_EXIT = 60  # arch/x86/entry/syscalls/syscall_64.tbl

_stop = threading.Event()
_threads: list[threading.Thread] = []


def start_threads(number: int) -> None:
    """Start threads that wait until they are stopped."""
    _threads.extend(threading.Thread(target=_stop.wait) for _ in range(number))
    for thread in _threads:
        thread.start()


def stop_threads() -> None:
    """Stop the threads, and wait until the kernel has forgotten them."""
    _stop.set()
    for thread in _threads:
        thread.join()
    wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, "end of the threads")


@pytest.mark.behaviour("ACT-47")
def test_user_namespace_of_threads_stays_visible_until_the_leader_is_reaped() -> None:
    with Task(NS.USER | NS.NET) as task:
        user, net = ns_id(NS.USER, task.pid), ns_id(NS.NET, task.pid)
        task.call(start_threads, 8)
        assert visible(user, net) == {user, net}
        task.call(stop_threads)
        assert visible(user, net) == {user, net}
        task.zombie()
        assert visible(user, net) == {user}
        task.reap()
        assert not visible(user, net)


@pytest.mark.behaviour("ACT-47")
def test_threads_that_end_with_their_process_leave_no_count() -> None:
    with Task(NS.USER | NS.PID | NS.NET) as task:
        ids = ids_in(task.pid, NS.USER | NS.PID | NS.NET)
        task.call(start_threads, 8)
        task.zombie()
        assert visible(*ids.values()) == {ids[NS.USER], ids[NS.PID]}
        task.reap()
        assert not visible(*ids.values())


def leave_threads_behind(number: int) -> None:
    """End the calling thread, the leader, but not its process."""
    start_threads(number)
    ctypes.CDLL(None).syscall(SYS_EXIT, 0)


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.behaviour("ACT-48")
def test_threads_keep_namespaces_after_their_leader() -> None:
    with Task(NS.USER | NS.PID | NS.NET) as task:
        ids = ids_in(task.pid, NS.USER | NS.PID | NS.NET)
        task.begin(leave_threads_behind, 2)
        wait_until(lambda: _is_zombie(task.pid), "end of the leader")
        assert visible(*ids.values()) == set(ids.values())
        task.zombie()
        assert visible(*ids.values()) == {ids[NS.USER], ids[NS.PID]}
        task.reap()
        assert not visible(*ids.values())


@contextmanager
def thread_with_new_net_ns() -> Iterator[int]:
    """A thread of this process in a network namespace of its own; gives its thread id.

    It has ended after the block, but its use of the namespace may not: join() returns early.
    """
    ready, stop = threading.Event(), threading.Event()

    def live() -> None:
        unshare(NS.NET)
        ready.set()
        stop.wait(scaled(10))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert ready.wait(scaled(5))
        assert thread.native_id
        yield thread.native_id
    finally:
        stop.set()
        thread.join()


def _open_net_ns(thread: int) -> int:
    return os.open(f"/proc/self/task/{thread}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@pytest.mark.behaviour("ACT-49")
def test_network_namespace_of_a_thread_is_visible_while_it_lives() -> None:
    with thread_with_new_net_ns() as thread:
        net = id_behind(_open_net_ns(thread))
        assert net != ns_id(NS.NET)
        assert visible(net)
    wait_until_invisible(net)


@pytest.mark.behaviour("ACT-49")
def test_fd_in_another_thread_keeps_the_network_namespace_of_a_thread() -> None:
    with thread_with_new_net_ns() as thread:
        fd = _open_net_ns(thread)
        net = id_of(fd)
    wait_until(lambda: not os.path.exists(f"/proc/self/task/{thread}"), "end of the thread")
    assert visible(net)
    os.close(fd)
    assert not visible(net)


def execute_in_thread(output: int) -> None:
    """As execute(), by a thread that is not the leader."""
    threading.Thread(target=execute, args=(output,)).start()
    signal.pause()


@pytest.mark.behaviour("ACT-50")
def test_exec_by_a_thread_leaves_namespaces_visible_and_no_count() -> None:
    kinds = NS.USER | NS.PID | NS.NET
    with Task(kinds) as task:
        ids = ids_in(task.pid, kinds)
        task.call(start_threads, 3)
        replace_by_program(task, execute_in_thread)
        assert os.listdir(f"/proc/{task.pid}/task") == [f"{task.pid}"]
        assert ids_in(task.pid, kinds) == ids
        assert visible(*ids.values()) == set(ids.values())
        task.zombie()
        assert visible(*ids.values()) == {ids[NS.USER], ids[NS.PID]}
        task.reap()
        assert not visible(*ids.values())
