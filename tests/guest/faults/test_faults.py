# SPDX-License-Identifier: GPL-2.0-only
"""Tests that misbehave in a guest, each in its own way; the one after each must not notice."""

import ctypes
import os
import signal
import time
from pathlib import Path

import pytest
from nslib import NS, Task, mount, open_of_socket, pinned, umount, unshare

MB = 1 << 20


def freeze(pid: int) -> None:
    """Put a process to uninterruptible sleep, SIGKILL or not, by the freezer of cgroup v1."""
    group = Path("/tmp/freezer")
    group.mkdir()
    mount("none", str(group), "cgroup", options="freezer")
    (group / "frozen").mkdir()
    (group / "frozen/cgroup.procs").write_text(str(pid))
    (group / "frozen/freezer.state").write_text("FROZEN")
    # The hierarchy lives on while there are groups in it.
    umount(str(group))


def flood_the_console(megabytes: int) -> None:
    with Path("/dev/console").open("wb", buffering=0) as console:
        for _ in range(megabytes):
            console.write((b"x" * 63 + b"\n") * (MB // 64))


def test_before() -> None:
    """An ordinary test, so that something has passed when trouble starts."""


def test_panics_the_kernel() -> None:
    with Path("/dev/console").open("wb", buffering=0) as console:
        console.write(b"no line feed before the panic: ")
    Path("/proc/sysrq-trigger").write_text("c")


@pytest.mark.deadline(1)
def test_hangs_in_the_kernel() -> None:
    freeze(os.getpid())
    time.sleep(1000)


def test_leaves_an_immortal_process_behind() -> None:
    if (child := os.fork()) == 0:
        time.sleep(1000)
        os._exit(0)
    freeze(child)


def test_corrupts_the_agent() -> None:
    # Process 1 cannot be killed by a signal, but root can write into its memory.
    for line in Path("/proc/1/maps").read_text().splitlines():
        if " rw-p " in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            with Path("/proc/1/mem").open("r+b", buffering=0) as memory:
                memory.seek(start)
                memory.write(b"\xff" * min(end - start, MB))


def test_stops_the_agent() -> None:
    freeze(1)


def test_kills_the_agent() -> None:
    os.kill(1, signal.SIGKILL)
    os.kill(-1, signal.SIGKILL)


@pytest.mark.deadline(1)
def test_spins_with_signals_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        pass


@pytest.mark.deadline(60)
def test_fills_memory() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(b"x") * (16 * MB))


@pytest.mark.deadline(1)
def test_forks_without_end() -> None:
    while True:
        os.fork()


@pytest.mark.deadline(60)
def test_prints_without_end() -> None:
    while True:
        os.write(1, b"x" * MB)


@pytest.mark.deadline(60)
def test_floods_the_console() -> None:
    flood_the_console(4)


@pytest.mark.deadline(300)
def test_floods_the_console_with_50_megabytes() -> None:
    flood_the_console(50)


def test_writes_garbage_to_the_results_channel() -> None:
    with Path("/dev/ttyS1").open("wb", buffering=0) as channel:
        channel.write(bytes(range(256)) * 16)
        channel.write(b'{"event": "finish", "test": 3}\n{"event": "what"}\n')
        channel.write(b'{"event": "start", "test": "nobody::asked"}\n')
        channel.write(b'{"event": "finish", "test": "faults/test_faults.py::test_after", ')
        channel.write(b'"outcome": "pass"}\n{"event"')


def test_leaves_a_process_and_its_namespace_behind() -> None:
    if os.fork() == 0:
        os.setsid()
        unshare(NS.NET)
        time.sleep(1000)
        os._exit(0)
    time.sleep(0.2)


def test_exits() -> None:
    os._exit(3)


def test_lets_a_child_come_back() -> None:
    if os.fork():
        time.sleep(0.2)


def test_crashes() -> None:
    ctypes.string_at(0)


def test_raises_what_is_the_tests_own_fault() -> None:
    raise TypeError("a mistake")


def test_revives_a_namespace() -> None:
    """Nothing to complain of, unless a kernel forgets the owner then and warns of it."""
    with Task(NS.USER | NS.NET) as task, pinned(task, NS.NET) as inactive:
        task.kill()
        task.wait()
        os.close(open_of_socket(inactive))


@pytest.mark.deadline(60)
def test_takes_its_time() -> None:
    time.sleep(50)


def test_after() -> None:
    """Another ordinary test."""


def test_leaves_a_mount_behind() -> None:
    mount("none", "/tmp", "tmpfs")
