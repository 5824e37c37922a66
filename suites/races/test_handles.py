# SPDX-License-Identifier: GPL-2.0-only
"""open_by_handle_at(2) while what it names comes to its end: an fd that keeps it, or ESTALE.

Whoever got an fd has the namespace and all its owners, whatever they have been through meanwhile;
who did not leaves nothing active behind.
"""

import os
from collections.abc import Iterator
from errno import ENOENT, ESTALE
from tempfile import NamedTemporaryFile

import pytest
from nslib import (
    FD_NSFS_ROOT,
    MNT_DETACH,
    MS_BIND,
    NS,
    NsHandle,
    id_of,
    mount,
    owned,
    poke,
    umount,
)
from nslib.newcomers import Maker, Newcomers, left, left_at_last
from nslib.races import Explore
from nslib.shots import (
    EXIT,
    SYS_CLOSE,
    SYS_MOUNT,
    SYS_OPEN_BY_HANDLE_AT,
    SYS_UMOUNT2,
    WAIT_FOR_CHILD,
    Call,
    enter,
)
from nslib.stage import Stage

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns", "uts_ns")

DEPTH = 2
# What is opened: the namespace that comes to its end, or an owner that ends with it.
NAMED = pytest.mark.parametrize("named", [DEPTH, 0], ids=["itself", "owner"])


class Opener:
    """An actor that opens a namespace by a handle of its id."""

    def __init__(self, stage: Stage) -> None:
        """It comes second."""
        self._handle = stage.arena.take(64)
        flags = os.O_RDONLY | os.O_CLOEXEC
        shot = Call(SYS_OPEN_BY_HANDLE_AT, (FD_NSFS_ROOT, self._handle, flags))
        self.actor = stage.actor([], shot)

    def name(self, ns_id: int) -> None:
        """What to open next."""
        poke(self._handle, NsHandle(ns_id).pack())

    def judge(self, ids: list[int], named: int) -> str:
        """Compare what it got with what is visible of a chain whose member `named` it opened."""
        result = self.actor.result
        if result == -ESTALE:
            assert left_at_last(ids, []) == []
            return "gone"
        assert result >= 0
        with owned(result) as fd:
            assert id_of(fd) == ids[named]
            assert left_at_last(ids, ids[: named + 1]) == ids[: named + 1]
        assert left(ids) == []
        return "opened"


@NAMED
@pytest.mark.behaviour("REG-09", "ACT-27", "ACT-35")
@pytest.mark.budget("race", 0.02)
def test_last_fd_is_closed(named: int, stage: Stage, explore: Explore) -> None:
    maker, opener = Maker(stage, NS.UTS, DEPTH), Opener(stage)
    closer = stage.actor([], Call(SYS_CLOSE), far=True)

    def attempt() -> str:
        made = maker.make(NS.UTS)
        opener.name(made.ids[named])
        closer.aim(0, *made.fds)
        stage.race(closer, opener.actor)
        return opener.judge(made.ids, named)

    explore(attempt, early=["gone"])


@NAMED
@pytest.mark.behaviour("REG-09", "ACT-27")
@pytest.mark.budget("race", 0.02)
def test_last_task_exits_and_is_reaped(named: int, stage: Stage, explore: Explore) -> None:
    opener, newcomers = Opener(stage), Newcomers()
    target = stage.actor(enter(stage.arena, NS.UTS, DEPTH), EXIT, far=True)
    parent = stage.actor([target.making, WAIT_FOR_CHILD], far=True)

    def attempt() -> str:
        stage.call_in(target, parent)
        ids = newcomers.take(DEPTH + 1)
        opener.name(ids[named])
        stage.release(target, opener.actor)
        parent.wait_over()
        return opener.judge(ids, named)

    explore(attempt, early=["gone"])


@pytest.fixture
def place() -> Iterator[str]:
    """A file to mount others on."""
    with NamedTemporaryFile() as file:
        yield file.name


@NAMED
@pytest.mark.behaviour("REG-09", "ACT-16", "ACT-20")
@pytest.mark.budget("race", 0.02)
def test_last_mount_is_removed(named: int, place: str, stage: Stage, explore: Explore) -> None:
    maker, opener = Maker(stage, NS.UTS, DEPTH), Opener(stage)
    address = stage.arena.keep(os.fsencode(place) + b"\0")
    unmounter = stage.actor([], Call(SYS_UMOUNT2, (address, MNT_DETACH)), far=True)

    def attempt() -> str:
        made = maker.make(NS.UTS)
        with owned(*made.fds) as fd:
            mount(f"/proc/self/fd/{fd}", place, flags=MS_BIND)
        opener.name(made.ids[named])
        stage.race(unmounter, opener.actor)
        assert unmounter.result == 0
        return opener.judge(made.ids, named)

    explore(attempt, early=["gone"])


@pytest.mark.behaviour("ACT-16", "ACT-20")
@pytest.mark.budget("race", 0.02)
def test_last_fd_is_closed_while_it_is_mounted(place: str, stage: Stage, explore: Explore) -> None:
    maker = Maker(stage, NS.UTS, DEPTH)
    source, target = stage.arena.take(64), stage.arena.keep(os.fsencode(place) + b"\0")
    closer = stage.actor([], Call(SYS_CLOSE), far=True)
    mounter = stage.actor([], Call(SYS_MOUNT, (source, target, 0, MS_BIND)))

    def attempt() -> str:
        made = maker.make(NS.UTS)
        closer.aim(0, *made.fds)
        poke(source, f"/proc/self/fd/{made.fds[0]}\0".encode())
        stage.race(closer, mounter)
        if mounter.result == -ENOENT:
            assert left(made.ids) == []
            return "gone"
        assert mounter.result == 0
        assert left(made.ids) == made.ids
        umount(place, MNT_DETACH)
        assert left(made.ids) == []
        return "mounted"

    explore(attempt, early=["gone"])
