# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) with a pidfd while its task ends: all or nothing, and counts that stay in balance.

The window: the target leaves its namespaces between the look at them and the switch. What was
inactive by then must become active again, owners included (commit f8d5a8970d2f).
"""

import os
import signal
from collections.abc import Iterator
from errno import ESRCH

import pytest
from nslib import NS, configured_mask, inode_of
from nslib.newcomers import Newcomers, left, left_at_last
from nslib.races import Explore, Stage
from nslib.shots import EXIT, SYS_SETNS, WAIT_FOR_CHILD, Call, enter

pytestmark = pytest.mark.needs("user_ns", "uts_ns", "ipc_ns")


class Joining:
    """A target in namespaces owned by a chain of user namespaces exits while another joins it."""

    def __init__(
        self,
        stage: Stage,
        kinds: NS,
        depth: int = 1,
        *,
        born_in: NS = NS.NONE,
        waited: bool = False,
    ) -> None:
        """The target starts in new namespaces `born_in`, and enters the others. Its parent is the
        test, or an actor that has `waited` for its end."""
        self._stage, self._kinds = stage, kinds
        self._made = depth + len(kinds & ~NS.USER)
        self._of_zombie = depth + len(born_in & NS.PID)
        steps = enter(stage.arena, kinds & ~born_in, 0 if born_in else depth)
        self._target = stage.actor(steps, EXIT, far=True, flags=born_in)
        self._joiner = stage.actor([], Call(SYS_SETNS, (0, kinds)))
        self._parent = (
            stage.actor([self._target.making, WAIT_FOR_CHILD], far=True) if waited else None
        )
        self._newcomers = Newcomers()
        self._home = self._links(os.getpid(), configured_mask())

    def attempt(self) -> str:
        """The target stays a zombie until the judgement, which the test's process is to reap."""
        ids = self._race()
        joined = self._judge_result()
        assert left(ids) == ids[: None if joined else self._of_zombie], "with a zombie"
        self._target.reap()
        assert left(ids) == (ids if joined else []), "without the zombie"
        self._joiner.end()
        assert left(ids) == [], "at last"
        return "joined" if joined else "gone"

    def attempt_reaped_at_once(self) -> str:
        """The target is reaped by its parent, or by the kernel, as soon as it has ended."""
        ids = self._race()
        joined = self._judge_result()
        if self._parent:
            self._parent.wait_over()
        assert left_at_last(ids, ids if joined else []) == (ids if joined else [])
        self._joiner.end()
        assert left_at_last(ids, []) == [], "at last"
        return "joined" if joined else "gone"

    def _race(self) -> list[int]:
        """Race; gives the ids of the target's namespaces, the user namespaces first."""
        self._stage.call_in(self._target, self._parent)
        ids = self._newcomers.take(self._made)
        self._there = self._links(self._target.pid, self._kinds)
        self._joiner.aim(0, self._target.pidfd)
        self._stage.release(self._target, self._joiner)
        return ids

    def _judge_result(self) -> bool:
        result = self._joiner.result
        assert result in (0, -ESRCH)
        expected = self._home | self._there if result == 0 else self._home
        assert self._links(self._joiner.pid, configured_mask()) == expected
        return result == 0

    @staticmethod
    def _links(pid: int, kinds: NS) -> dict[NS, int]:
        """What a task is in, its children for pid namespaces, by inode: any kernel knows that."""
        return {kind: inode_of(kind.child_link, pid) for kind in kinds}


@pytest.fixture
def autoreaped() -> Iterator[None]:
    """The kernel reaps the children of the test."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.behaviour("SNS-41", "SNS-42", "SNS-43", "REG-05")
@pytest.mark.budget("race", 0.09)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_target_exits(depth: int, stage: Stage, explore: Explore) -> None:
    joining = Joining(stage, NS.UTS | NS.IPC, depth)
    explore(joining.attempt, early=["gone"])


@pytest.mark.behaviour("SNS-41", "SNS-42", "SNS-43", "REG-05")
@pytest.mark.budget("race", 0.03)
def test_target_of_every_type_exits(stage: Stage, explore: Explore) -> None:
    # Who shares memory cannot enter a time namespace.
    kinds = configured_mask(NS.TIME)
    joining = Joining(stage, kinds, born_in=kinds & (NS.USER | NS.PID))
    explore(joining.attempt, early=["gone"])


@pytest.mark.behaviour("SNS-41", "SNS-43", "SNS-44", "REG-05")
@pytest.mark.budget("race", 0.02)
@pytest.mark.parametrize("kinds", [NS.USER | NS.UTS, NS.PID | NS.UTS], ids=["user", "pid"])
def test_target_is_reaped_by_its_parent(kinds: NS, stage: Stage, explore: Explore) -> None:
    born_in = NS.USER | NS.PID if NS.PID in kinds else NS.NONE
    joining = Joining(stage, kinds, born_in=born_in, waited=True)
    explore(joining.attempt_reaped_at_once, early=["gone"])


@pytest.mark.behaviour("SNS-41", "SNS-43", "SNS-44", "REG-05")
@pytest.mark.budget("race", 0.02)
@pytest.mark.usefixtures("autoreaped")
@pytest.mark.parametrize("kinds", [NS.USER | NS.UTS, NS.PID | NS.UTS], ids=["user", "pid"])
def test_target_is_reaped_by_the_kernel(kinds: NS, stage: Stage, explore: Explore) -> None:
    born_in = NS.USER | NS.PID if NS.PID in kinds else NS.NONE
    joining = Joining(stage, kinds, born_in=born_in)
    explore(joining.attempt_reaped_at_once, early=["gone"])
