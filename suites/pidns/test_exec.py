# SPDX-License-Identifier: GPL-2.0-only
"""A task keeps its pid namespace for life, and init is init also after an exec."""

import os
import signal
import struct
import threading
from collections.abc import Callable

import pytest
from nslib import (
    NS,
    ExitStatus,
    Sleeper,
    Task,
    TaskEndedError,
    children_in,
    errno_of,
    ns_name,
    open_ns,
    owned,
    pids_by_level,
    setns,
    settled_state,
    sleeper_in,
    status_field,
    unshare,
)

pytestmark = pytest.mark.needs("pid_ns")

KILLED = ExitStatus(os.CLD_KILLED, signal.SIGKILL)
_LOAD_ADDRESS = 0x400000
# An ELF file of one segment (elf(5)), for x86-64: it sleeps for ever.
_CODE = bytes.fromhex("b8220000000f05ebf7")  # again: mov eax, 34 (pause); syscall; jmp again
_HEADERS_SIZE = 64 + 56


def program() -> bytes:
    """A program that sleeps until it is killed, and is loaded faster than an interpreter."""
    size = _HEADERS_SIZE + len(_CODE)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    entry = _LOAD_ADDRESS + _HEADERS_SIZE
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 4096)
    return ident + header + segment + _CODE


def exec_sleep() -> None:
    """Become a program that sleeps."""
    fd = os.memfd_create("sleep")
    os.write(fd, program())
    os.execve(fd, ["sleep"], {})  # noqa: S606 (a program of our own)


def exec_sleep_in_thread() -> None:
    """Become it in a thread that is not the leader."""
    threading.Thread(target=exec_sleep).start()
    threading.Event().wait()


def exec_in(task: Task, how: Callable[[], None] = exec_sleep) -> None:
    """Have a task become the program; it can be called no more."""
    with pytest.raises(TaskEndedError):
        task.call(how)


@pytest.mark.behaviour("PNS-58")
def test_active_pid_namespace_never_changes() -> None:
    with Task() as task, Sleeper(NS.PID) as beside:
        own = ns_name(NS.PID, task.pid)
        with owned(open_ns(NS.PID, beside.pid)) as fd:
            task.call(setns, task.give(fd), NS.PID)
        assert (ns_name(NS.PID, task.pid), pids_by_level(task.pid)) == (own, [task.pid])
        with owned(open_ns(NS.PID)) as fd:
            task.call(setns, task.give(fd), NS.PID)
        task.call(unshare, NS.PID)
        task.call(sleeper_in)
        assert (ns_name(NS.PID, task.pid), pids_by_level(task.pid)) == (own, [task.pid])
        exec_in(task)
        assert (ns_name(NS.PID, task.pid), pids_by_level(task.pid)) == (own, [task.pid])
        task.zombie()
        assert ns_name(NS.PID, task.pid) == own


@pytest.mark.behaviour("PNS-58")
def test_member_keeps_it_too_and_as_a_zombie() -> None:
    with Sleeper(NS.PID) as init:
        own = ns_name(NS.PID, init.pid)
        assert own != ns_name(NS.PID)
        init.zombie()
        assert ns_name(NS.PID, init.pid) == own


@pytest.mark.behaviour("PNS-59")
@pytest.mark.parametrize("how", [exec_sleep, exec_sleep_in_thread])
def test_init_stays_init_after_exec(how: Callable[[], None]) -> None:
    with Task(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        with children_in(fd):
            member = Task()
        with member:
            exec_in(init, how)
            assert pids_by_level(init.pid) == [init.pid, 1]
            assert ns_name(NS.PID, init.pid) == ns_name(NS.PID, member.pid)
            assert status_field(init.pid, "Threads") == "1"
            assert settled_state(init.pid) == "S"
            numbers = [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM]
            assert [member.call(errno_of, os.kill, 1, number) for number in numbers] == [0] * 3
            init.kill(signal.SIGTERM)
            assert settled_state(init.pid) == "S"
            init.kill()
            assert member.wait() == KILLED
            assert init.wait() == KILLED
