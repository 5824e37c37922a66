# SPDX-License-Identifier: GPL-2.0-only
"""A task exits while another one joins its namespaces by its pidfd: what must come of it.

For tests; that they see the values in a failed assertion, suites/conftest.py has pytest rewrite
this module.
"""

import os
import signal
from collections.abc import Sequence
from errno import ESRCH

from .ids import inode_of, owned
from .ioctls import open_of_socket
from .namespaces import NS
from .newcomers import Newcomers, left, left_at_last, listed
from .shots import EXIT, SYS_PIDFD_SEND_SIGNAL, SYS_SETNS, WAIT_FOR_CHILD, Call, enter
from .stage import Stage


class Joining:
    """A target in namespaces owned by a chain of user namespaces exits while another joins it."""

    def __init__(
        self,
        stage: Stage,
        kinds: NS,
        depth: int = 1,
        *,
        last: Sequence[Call] = (),
        killed: bool = False,
        waited: bool = False,
    ) -> None:
        """The target enters new namespaces, and makes the calls `last` there; nobody can enter a
        pid namespace, so with one among them it starts there. It exits by itself, or is `killed` by
        SIGKILL. Its parent is the test, or an actor that has `waited` for its end."""
        self._stage = stage
        born_in = NS.USER | NS.PID if NS.PID in kinds else NS.NONE
        self._made = depth + len(kinds & ~NS.USER)
        self._of_zombie = depth + len(born_in & NS.PID)
        steps = enter(stage.arena, kinds & ~born_in, 0 if born_in else depth)
        end = None if killed else EXIT
        self.target = stage.actor([*steps, *last], end, far=True, flags=born_in)
        kill = Call(SYS_PIDFD_SEND_SIGNAL, (0, signal.SIGKILL, 0, 0))
        self._killer = stage.actor([], kill, far=True) if killed else None
        self._joiner = stage.actor([], Call(SYS_SETNS, (0, kinds)))
        self._parent = (
            stage.actor([self.target.making, WAIT_FOR_CHILD], far=True) if waited else None
        )
        self._newcomers = Newcomers()
        self._names = [kind.child_link for kind in kinds]
        self._home = self._links(os.getpid())
        self.ids: list[int] = []
        """The target's namespaces in the last attempt, the user namespaces first."""

    def attempt(self) -> str:
        """The target stays a zombie until the judgement, which the test's process is to reap."""
        self._race()
        joined, ids = self._judge_result(), self.ids
        assert listed(ids) == ids[: None if joined else self._of_zombie], "with a zombie"
        self.target.reap()
        assert left(ids) == (ids if joined else []), "without the zombie"
        self._joiner.end()
        assert left(ids) == [], "at last"
        return "joined" if joined else "gone"

    def attempt_reaped_at_once(self) -> str:
        """The target is reaped by its parent, or by the kernel, as soon as it has ended."""
        self._race()
        joined, ids = self._judge_result(), self.ids
        if self._parent:
            self._parent.wait_over()
        assert left_at_last(ids, ids if joined else []) == (ids if joined else [])
        self._joiner.end()
        assert left_at_last(ids, []) == [], "at last"
        return "joined" if joined else "gone"

    def attempt_and_revive(self) -> str:
        """As attempt(); then a socket, which the target has made last, brings all back for a while,
        which it could not if a count had been spoilt."""
        outcome = self.attempt()
        with owned(self.target.before_shot) as sock:
            with owned(open_of_socket(sock)):
                assert left(self.ids) == self.ids, "revived"
            assert left(self.ids) == [], "not revived any more"
        return outcome

    def _race(self) -> None:
        if self._killer:
            self.target.prepare()
            self.target.start()
            self.target.wait_over()
            self._killer.aim(0, self.target.pidfd)
            self._stage.call_in(self._killer)
        else:
            self._stage.call_in(self.target, self._parent)
        self.ids = self._newcomers.take(self._made)
        self._there = self._links(self.target.pid)
        self._joiner.aim(0, self.target.pidfd)
        self._stage.release(self._killer or self.target, self._joiner)
        self.target.wait_ended()

    def _judge_result(self) -> bool:
        result = self._joiner.result
        assert result in (0, -ESRCH)
        assert self._links(self._joiner.pid) == (self._home if result else self._there)
        return result == 0

    def _links(self, pid: int) -> list[int]:
        """What a task is in, its children for pid namespaces, by inode: any kernel knows that."""
        return [inode_of(name, pid) for name in self._names]
