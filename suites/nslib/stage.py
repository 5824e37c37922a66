# SPDX-License-Identifier: GPL-2.0-only
"""Where the actors of a race meet, and the clock of an attempt."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from .acting import Meeting
from .actors import Actor
from .shots import Arena, Call, program, settle


@dataclass(frozen=True, slots=True)
class Timing:
    """When the two calls of an attempt were made: by how many ticks the first's began later than
    the second's, and whether they were seen to overlap."""

    offset: int
    overlapped: bool


class Stage:
    """Where the actors of a campaign meet: two CPUs, or one, and the memory that they share.

    The first actor of an attempt is made, comes to the meeting and waits there, on the far CPU;
    then the second one on the near CPU, where the test runs too.
    """

    def __init__(self) -> None:
        """Choose the CPUs."""
        self.arena = Arena()
        self._cpus = os.sched_getaffinity(0)
        self.near, self.far = (sorted(self._cpus) * 2)[:2]
        self.spins = len(self._cpus) > 1 and os.uname().machine == "x86_64"
        self._meeting = Meeting(self.arena, spin=self.spins)
        self._actors: list[Actor] = []
        self._clock: list[tuple[int, int]] = []
        self.lead = 0

    def actor(
        self,
        before: Sequence[Call] = (),
        shot: Call | None = None,
        after: Sequence[Call] = (),
        *,
        far: bool = False,
        flags: int = 0,
    ) -> Actor:
        """An actor that is started for each attempt, with CLONE_* `flags`."""
        steps = [*settle(self.arena, self.far if far else self.near), *before]
        script = program(steps, shot, after)
        self._actors.append(Actor(self.arena, script, self._meeting, flags))
        return self._actors[-1]

    def call_in(self, first: Actor, by: Actor | None = None) -> None:
        """Start the first actor, or the one `by` which it is made, and wait until it is ready."""
        self._meeting.reset()
        first.prepare(max(0, self.lead))
        if by:
            by.prepare()
        (by or first).start()
        first.wait_ready()

    def release(self, first: Actor, second: Actor) -> None:
        """Start the second actor, which the first waits for, and wait until both are through."""
        second.prepare(max(0, -self.lead))
        second.start()
        second.wait_over()
        first.wait_over()
        self._pair = first, second
        self._read_clock(second)

    def race(self, first: Actor, second: Actor) -> None:
        """An attempt for which nothing has to be done between the two."""
        self.call_in(first)
        self.release(first, second)

    def race_inside(self, process: Actor, thread: Actor) -> None:
        """An attempt of a process, which exits, and a thread that it makes before."""
        self._meeting.reset()
        self._pair = process, thread
        process.prepare(max(0, self.lead))
        thread.prepare(max(0, -self.lead))
        process.start()
        process.wait_over()
        self._read_clock(process)

    @property
    def timing(self) -> Timing | None:
        """When the calls of the last attempt were made; None if it ended before both were."""
        first, second = self._pair
        if not first.shot_at or not second.shot_at:
            return None
        # Who exits does not return.
        in_time = second.shot_at <= (first.done_at or second.shot_at)
        in_time &= first.shot_at <= (second.done_at or first.shot_at)
        return Timing(first.shot_at - second.shot_at, in_time)

    @property
    def ticks_per_ns(self) -> float:
        """How fast the TSC goes, from the first and the last attempt."""
        if len(self._clock) < 2:
            return 1.0
        (began, first), (ended, last) = self._clock
        return (last - first) / (ended - began)

    def clear(self) -> None:
        """End what is left of the actors."""
        for actor in self._actors:
            actor.end()

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, {self.near})
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._meeting.close()
        os.sched_setaffinity(0, self._cpus)

    def _read_clock(self, actor: Actor) -> None:
        if actor.shot_at:
            self._clock[1:] = [(time.monotonic_ns(), actor.shot_at)]
