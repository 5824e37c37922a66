# SPDX-License-Identifier: GPL-2.0-only
"""reboot(2) in a child pid namespace ends that namespace, and nothing else (reboot(2))."""

import os
import signal
from errno import EINVAL, EPERM

import pytest
from nslib import (
    NS,
    Cap,
    ExitStatus,
    Sleeper,
    Task,
    TaskEndedError,
    children_in,
    ns_name,
    open_ns,
    owned,
    set_effective_caps,
    syscall,
)

pytestmark = pytest.mark.needs("pid_ns")

SYS_REBOOT = 169  # arch/x86/entry/syscalls/syscall_64.tbl
MAGIC1 = 0xFEE1DEAD  # include/uapi/linux/reboot.h, as all of this block
MAGIC2, MAGIC2A, MAGIC2B, MAGIC2C = 672274793, 85072278, 369367448, 537993216
RESTART, RESTART2 = 0x01234567, 0xA1B2C3D4
HALT, POWER_OFF = 0xCDEF0123, 0x4321FEDC
CAD_ON, CAD_OFF = 0x89ABCDEF, 0
SW_SUSPEND, KEXEC = 0xD000FCE2, 0x45584543

KILLED_BY_HUP = ExitStatus(os.CLD_KILLED, signal.SIGHUP)
KILLED_BY_INT = ExitStatus(os.CLD_KILLED, signal.SIGINT)


def reboot(command: int, never_in: str, magic1: int = MAGIC1, magic2: int = MAGIC2) -> None:
    """reboot(2), but not in the pid namespace `never_in`, which is the machine's perhaps."""
    if ns_name(NS.PID) == never_in:
        raise RuntimeError(never_in)
    syscall(SYS_REBOOT, magic1, magic2, command, 0)


def reboot_in(task: Task, command: int, magic1: int = MAGIC1, magic2: int = MAGIC2) -> int:
    """The errno of a task's reboot(2), 0 if the task has not survived it."""
    try:
        task.call(reboot, command, ns_name(NS.PID), magic1, magic2)
    except TaskEndedError:
        return 0
    except OSError as error:
        return error.errno or 0
    raise AssertionError("reboot returned 0")


@pytest.mark.behaviour("PNS-34", "PNS-35")
@pytest.mark.parametrize(
    ("command", "magic2", "end"),
    [
        pytest.param(RESTART, MAGIC2, KILLED_BY_HUP, id="restart"),
        pytest.param(RESTART2, MAGIC2A, KILLED_BY_HUP, id="restart2"),
        pytest.param(HALT, MAGIC2B, KILLED_BY_INT, id="halt"),
        pytest.param(POWER_OFF, MAGIC2C, KILLED_BY_INT, id="power_off"),
    ],
)
def test_reboot_ends_init_by_a_signal(command: int, magic2: int, end: ExitStatus) -> None:
    with Task(NS.PID) as init:
        assert reboot_in(init, command, magic2=magic2) == 0
        assert init.wait() == end


@pytest.mark.behaviour("PNS-36")
def test_other_commands_are_invalid() -> None:
    with Task(NS.PID) as init:
        for command in (CAD_ON, CAD_OFF, SW_SUSPEND, KEXEC, RESTART + 1):
            assert reboot_in(init, command) == EINVAL
        assert init.call(os.getpid) == 1
        assert init.reap() == ExitStatus(os.CLD_KILLED, signal.SIGKILL)


@pytest.mark.behaviour("PNS-37")
def test_reboot_needs_sys_boot_and_then_the_magic() -> None:
    with Task(NS.PID) as init:
        assert reboot_in(init, RESTART, magic1=MAGIC1 + 1) == EINVAL
        assert reboot_in(init, RESTART, magic2=MAGIC2 + 1) == EINVAL
        init.call(set_effective_caps, Cap.ALL & ~Cap.SYS_BOOT)
        assert reboot_in(init, RESTART) == EPERM
        assert reboot_in(init, RESTART, magic1=0) == EPERM
        assert reboot_in(init, CAD_ON) == EPERM
        init.call(set_effective_caps, Cap.SYS_BOOT)
        assert reboot_in(init, RESTART) == 0
        assert init.wait() == KILLED_BY_HUP


@pytest.mark.behaviour("PNS-37")
@pytest.mark.needs("user_ns")
def test_sys_boot_in_another_user_namespace_does_not_count() -> None:
    with Task(NS.PID) as init, init.spawn(NS.USER) as member:
        assert reboot_in(member, RESTART) == EPERM
        assert reboot_in(member, RESTART, magic1=0) == EPERM
        assert init.call(os.getpid) == 1


@pytest.mark.behaviour("PNS-38")
@pytest.mark.parametrize(
    ("command", "end"),
    [
        pytest.param(RESTART, KILLED_BY_HUP, id="restart"),
        pytest.param(POWER_OFF, KILLED_BY_INT, id="power_off"),
    ],
)
def test_reboot_by_a_member_ends_init_and_the_member(command: int, end: ExitStatus) -> None:
    with Sleeper(NS.PID) as init, owned(open_ns(NS.PID, init.pid)) as fd:
        with children_in(fd):
            member = Task()
        with member:
            assert reboot_in(member, command) == 0
            # It exits by itself, unless init has killed it before.
            exited, killed = ExitStatus(os.CLD_EXITED, 0), (os.CLD_KILLED, signal.SIGKILL)
            assert member.wait() in (exited, killed)
            assert init.wait() == end


@pytest.mark.behaviour("PNS-39")
def test_reboot_ends_the_innermost_namespace_only() -> None:
    with Task(NS.PID) as outer, outer.spawn(NS.PID) as inner, outer.spawn() as beside:
        assert reboot_in(inner, RESTART) == 0
        assert inner.wait() == KILLED_BY_HUP
        assert (outer.call(os.getpid), beside.call(os.getpid)) == (1, 3)
        assert outer.reap() == ExitStatus(os.CLD_KILLED, signal.SIGKILL)


@pytest.mark.behaviour("PNS-39")
@pytest.mark.needs("user_ns")
def test_capabilities_over_the_owner_suffice() -> None:
    with Task(NS.USER | NS.PID) as init:
        assert reboot_in(init, POWER_OFF) == 0
        assert init.wait() == KILLED_BY_INT
