# SPDX-License-Identifier: GPL-2.0-only
"""unshare(2) in a thread while its process exits: what it makes then ends with the process."""

import pytest
from nslib import CLONE_SIGHAND, CLONE_THREAD, NS, hold, release
from nslib.newcomers import left_at_last, since
from nslib.races import Explore
from nslib.shots import EXIT, SYS_UNSHARE, Call, enter
from nslib.stage import Stage

pytestmark = pytest.mark.needs("active_refs", "user_ns", "uts_ns", "ipc_ns")

DEPTH = 2


@pytest.mark.behaviour("ACT-04", "ACT-47", "ACT-49")
@pytest.mark.budget("race", 0.025)
def test_process_exits(stage: Stage, explore: Explore) -> None:
    if not stage.spins:
        pytest.skip("needs two CPUs, of x86-64")
    thread = stage.actor(
        [], Call(SYS_UNSHARE, (NS.UTS | NS.IPC,)), flags=CLONE_THREAD | CLONE_SIGHAND
    )
    steps = [*enter(stage.arena, NS.UTS, DEPTH), thread.making]
    process = stage.actor(steps, EXIT, far=True)

    def attempt() -> str:
        before = _next_id()
        stage.race_inside(process, thread)
        process.reap()
        # The last thread reaps itself, and may be at it still when its process has been reaped.
        assert left_at_last(since(before), []) == []
        # Who is killed does not say whether the call took effect; but ids are not used again.
        made = _next_id() - before - 1 - (DEPTH + 1)
        assert made in (0, 2)
        return "unshared" if made else "killed"

    explore(attempt, early=["killed"])


def _next_id() -> int:
    with_it = hold(NS.UTS)
    release([with_it])
    return with_it.id
