# SPDX-License-Identifier: GPL-2.0-only
"""NS_GET_USERNS and NS_GET_PARENT while the last fd of the namespace is closed: the owner or the
parent is kept by the new fd, with all above it, or everything is gone."""

from errno import EBADF

import pytest
from nslib import NS, NS_GET_PARENT, NS_GET_USERNS, id_of, open_ns, owned
from nslib.newcomers import Maker, Newcomers, left
from nslib.races import Explore
from nslib.shots import SYS_CLOSE, SYS_IOCTL, Call
from nslib.stage import Stage

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns", "uts_ns")

DEPTH = 3


@pytest.mark.behaviour("ACT-34", "ACT-26", "ACT-27")
@pytest.mark.budget("race", 0.02)
@pytest.mark.parametrize(
    ("kind", "question"),
    [(NS.UTS, NS_GET_USERNS), (NS.USER, NS_GET_PARENT)],
    ids=["owner", "parent"],
)
def test_last_fd_is_closed(kind: NS, question: int, stage: Stage, explore: Explore) -> None:
    maker = Maker(stage, NS.UTS, DEPTH)
    closer = stage.actor([], Call(SYS_CLOSE), far=True)
    asker = stage.actor([], Call(SYS_IOCTL, (0, question)))

    def attempt() -> str:
        ids, fds, _ = maker.make(kind)
        above = ids[: DEPTH if kind == NS.UTS else DEPTH - 1]
        closer.aim(0, *fds)
        asker.aim(0, *fds)
        stage.race(closer, asker)
        if asker.result == -EBADF:
            assert left(ids) == []
            return "gone"
        with owned(asker.result) as fd:
            assert id_of(fd) == above[-1]
            assert left(ids) == above
        assert left(ids) == []
        return "opened"

    explore(attempt, early=["gone"])


@pytest.mark.needs("pid_ns")
@pytest.mark.behaviour("ACT-32", "ACT-33")
@pytest.mark.budget("race", 0.02)
def test_last_fd_below_a_dead_pid_namespace_is_closed(stage: Stage, explore: Explore) -> None:
    newcomers = Newcomers()
    inner = stage.actor(far=True, flags=NS.PID)
    outer = stage.actor([inner.making], far=True, flags=NS.USER | NS.PID)
    closer = stage.actor([], Call(SYS_CLOSE), far=True)
    asker = stage.actor([], Call(SYS_IOCTL, (0, NS_GET_PARENT)))

    def attempt() -> str:
        inner.prepare()
        outer.prepare()
        outer.start()
        outer.wait_over()
        user, parent, child = ids = newcomers.take(3)
        kept = open_ns(NS.PID, inner.pid)
        outer.end()
        inner.end()
        assert left(ids) == [user, child]
        closer.aim(0, kept)
        asker.aim(0, kept)
        stage.race(closer, asker)
        if asker.result == -EBADF:
            assert left(ids) == []
            return "gone"
        with owned(asker.result) as fd:
            assert id_of(fd) == parent
            assert left(ids) == [user, parent]
        assert left(ids) == []
        return "opened"

    explore(attempt, early=["gone"])
