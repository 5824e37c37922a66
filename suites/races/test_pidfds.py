# SPDX-License-Identifier: GPL-2.0-only
"""What is asked of a task by its pid or pidfd while it exits, and while it is reaped."""

import os
import struct
from errno import ESRCH

import pytest
from nslib import NS, PidfdGet, errno_of, id_of, ioctl, owned, peek, pid_in_proc, poke
from nslib.newcomers import Newcomers, left
from nslib.races import Explore
from nslib.shots import EXIT, SYS_IOCTL, SYS_PIDFD_OPEN, SYS_WAITID, WAIT_FOR_CHILD, Call, enter
from nslib.stage import Stage

pytestmark = pytest.mark.needs("user_ns", "uts_ns")

DEPTH = 2
WAIT_FOR_ZOMBIE = Call(SYS_WAITID, (os.P_ALL, 0, 0, os.WEXITED | os.WNOWAIT))

# struct pidfd_info up to the pid, and its first size (include/uapi/linux/pidfd.h, Linux 6.13).
PIDFD_INFO = struct.Struct("<QQI")
PIDFD_INFO_SIZE = 64
PIDFD_INFO_PID = 1
PIDFD_GET_INFO = 3 << 30 | PIDFD_INFO_SIZE << 16 | 0xFF << 8 | 11


@pytest.mark.needs("active_refs", "id_handles", "pidfd_ioctls")
@pytest.mark.behaviour("IOC-18", "IOC-19", "ACT-26", "ACT-27")
@pytest.mark.budget("race", 0.02)
@pytest.mark.parametrize("which", [PidfdGet.UTS, PidfdGet.USER], ids=["uts", "user"])
def test_namespace_of_a_task_that_exits(which: PidfdGet, stage: Stage, explore: Explore) -> None:
    newcomers = Newcomers()
    target = stage.actor(enter(stage.arena, NS.UTS, DEPTH), EXIT, far=True)
    asker = stage.actor([], Call(SYS_IOCTL, (0, which)))
    kept = DEPTH + 1 if which == PidfdGet.UTS else DEPTH

    def attempt() -> str:
        stage.call_in(target)
        ids = newcomers.take(DEPTH + 1)
        asker.aim(0, target.pidfd)
        stage.release(target, asker)
        target.reap()
        if asker.result == -ESRCH:
            assert left(ids) == []
            return "gone"
        with owned(asker.result) as fd:
            assert id_of(fd) == ids[kept - 1]
            assert left(ids) == ids[:kept]
        assert left(ids) == []
        return "opened"

    explore(attempt, early=["gone"])


@pytest.mark.behaviour("PNS-31")
@pytest.mark.budget("race", 0.015)
def test_pidfd_of_a_task_that_is_reaped(stage: Stage, explore: Explore) -> None:
    target = stage.actor([EXIT], far=True)
    parent = stage.actor([target.making, WAIT_FOR_ZOMBIE], WAIT_FOR_CHILD, far=True)
    opener = stage.actor([], Call(SYS_PIDFD_OPEN, (0, 0)))

    def attempt() -> str:
        target.prepare()
        stage.call_in(parent)
        opener.aim(0, target.pid)
        stage.release(parent, opener)
        assert pid_in_proc(target.pidfd) == -1
        if opener.result == -ESRCH:
            return "gone"
        with owned(opener.result) as pidfd:
            assert pid_in_proc(pidfd) == -1
        return "opened"

    explore(attempt, early=["gone"])


@pytest.mark.behaviour("PNS-55")
@pytest.mark.budget("race", 0.015)
def test_info_of_a_task_that_is_reaped(stage: Stage, explore: Explore) -> None:
    target = stage.actor([EXIT], far=True)
    parent = stage.actor([target.making, WAIT_FOR_ZOMBIE], WAIT_FOR_CHILD, far=True)
    info = stage.arena.take(PIDFD_INFO_SIZE)
    asker = stage.actor([], Call(SYS_IOCTL, (0, PIDFD_GET_INFO, info)))
    with owned(os.pidfd_open(os.getpid())) as own:
        if errno_of(ioctl, own, PIDFD_GET_INFO, info):
            pytest.skip("needs PIDFD_GET_INFO (Linux 6.13)")

    def attempt() -> str:
        target.prepare()
        stage.call_in(parent)
        pid = target.pid
        poke(info, PIDFD_INFO.pack(PIDFD_INFO_PID, 0, 0))
        asker.aim(0, target.pidfd)
        stage.release(parent, asker)
        if asker.result == -ESRCH:
            return "gone"
        assert asker.result == 0
        assert PIDFD_INFO.unpack(peek(info, PIDFD_INFO.size))[2] == pid
        return "told"

    explore(attempt, early=["gone"])
