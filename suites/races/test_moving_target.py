# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with the pidfd of a task that joins others itself: the namespaces of one moment."""

import pytest
from nslib import NS, inode_of
from nslib.newcomers import Newcomers, left
from nslib.races import Explore
from nslib.shots import SYS_SETNS, Call, enter
from nslib.stage import Stage

pytestmark = pytest.mark.needs("user_ns", "uts_ns", "ipc_ns")

KINDS = NS.UTS | NS.IPC
DEPTH = 2


@pytest.mark.behaviour("SNS-41", "SNS-45", "ACT-56")
@pytest.mark.budget("race", 0.03)
def test_target_moves_on(stage: Stage, explore: Explore) -> None:
    newcomers = Newcomers()
    host = stage.actor(enter(stage.arena, KINDS, DEPTH), far=True)
    target = stage.actor(enter(stage.arena, KINDS, 0), Call(SYS_SETNS, (0, KINDS)), far=True)
    joiner = stage.actor([], Call(SYS_SETNS, (0, KINDS)))

    def attempt() -> str:
        host.prepare()
        host.start()
        host.wait_over()
        new = newcomers.take(DEPTH + len(KINDS))
        there = _links(host.pid)
        target.aim(0, host.pidfd)
        stage.call_in(target)
        old, before = newcomers.take(len(KINDS)), _links(target.pid)
        joiner.aim(0, target.pidfd)
        stage.release(target, joiner)
        host.end()
        assert (target.result, joiner.result) == (0, 0)
        assert _links(target.pid) == there
        joined = _links(joiner.pid)
        assert joined in (before, there)
        assert left(old + new) == sorted(old + new if joined == before else new)
        target.end()
        assert left(old + new) == (old if joined == before else new)
        joiner.end()
        assert left(old + new) == []
        return "left" if joined == before else "moved"

    explore(attempt, early=["moved"])


def _links(pid: int) -> list[int]:
    return [inode_of(kind, pid) for kind in KINDS]
