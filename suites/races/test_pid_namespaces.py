# SPDX-License-Identifier: GPL-2.0-only
"""A fork into a pid namespace whose init ends meanwhile: no child, or one that ends with it."""

import signal
import struct
from errno import ENOMEM

import pytest
from nslib import NS
from nslib.newcomers import Newcomers, left_at_last
from nslib.races import Explore
from nslib.shots import EXIT, SYS_RT_SIGACTION, SYS_SETNS, Call
from nslib.stage import Stage

pytestmark = pytest.mark.needs("user_ns", "pid_ns")

_SIGACTION = struct.Struct("<QQQQ")  # handler, flags, restorer, mask: the kernel's own order
_SIG_IGN = 1


@pytest.mark.behaviour("PNS-17", "PNS-18", "PNS-19", "PNS-21", "REG-15")
@pytest.mark.budget("race", 0.04)
def test_init_exits_as_another_forks_into_its_namespace(stage: Stage, explore: Explore) -> None:
    newcomers = Newcomers()
    init = stage.actor([], EXIT, far=True, flags=NS.USER | NS.PID)
    child = stage.actor([])
    ignore = stage.arena.keep(_SIGACTION.pack(_SIG_IGN, 0, 0, 0))
    forker = stage.actor(
        # Init would wait for a zombie that the forker does not reap (zap_pid_ns_processes()).
        [
            Call(SYS_RT_SIGACTION, (signal.SIGCHLD, ignore, 0, 8)),
            Call(SYS_SETNS, (0, NS.PID)),
        ],
        child.making,
    )

    def attempt() -> str:
        stage.call_in(init)
        ids = newcomers.take(2)
        forker.aim(0, init.pidfd, back=1)
        child.prepare()
        stage.release(init, forker)
        if forker.result < 0:
            assert forker.result == -ENOMEM
            child.prepare()
        else:
            child.reap()
        init.reap()
        forker.end()
        assert left_at_last(ids, []) == []
        return "dead" if forker.result < 0 else "born"

    explore(attempt, early=["dead"])
