# SPDX-License-Identifier: GPL-2.0-only
"""Races that reach their window: two prepared system calls, at a distance that is searched for.

Each attempt ends in one of several outcomes. Where they flip is the window: the search (see
nslib.windows) moves there and stays, so that most attempts meet the kernel between two steps of
one call while the other takes effect.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from .acting import Meeting
from .actors import Actor
from .budgets import seed
from .shots import Arena, Call, program, settle
from .windows import Search, band

# So many attempts are made for one without a lead.
_FIXED_EACH = 10
_ACTORS = {
    True: "on two CPUs, released by a spin barrier",
    False: "without a barrier: one sleeps for the lead, and takes the CPU when it wakes up",
}


@dataclass(frozen=True, slots=True)
class Timing:
    """When the two calls of an attempt were made: by how many ticks the first's began later than
    the second's, and whether they were seen to overlap."""

    offset: int
    overlapped: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a campaign; `outcomes` says how often it ended how, times are of the TSC.

    `flip` is the offset between the calls at which the outcomes flip, `width` the size of the
    range in which either is possible, the window; both in nanoseconds, None if the clock did not
    see both sides. `inside` is the share of attempts in the window, `inside_fixed` that of the
    `fixed` ones, which were made among the others without a lead, for comparison.
    """

    attempts: int
    seconds: float
    outcomes: Mapping[str, int]
    overlapped: float
    flip: float | None
    width: float | None
    inside: float
    fixed: int
    inside_fixed: float
    reached: bool
    """Whether both sides were seen."""
    actors: str

    def observation(self) -> dict[str, object]:
        """The report for whoever compares kernels."""
        return {
            "attempts": self.attempts,
            "attempts_per_second": round(self.attempts / self.seconds, 1),
            "shares": {name: round(n / self.attempts, 4) for name, n in self.outcomes.items()},
            "overlapped": round(self.overlapped, 3),
            "flip_ns": self.flip and round(self.flip),
            "width_ns": self.width and round(self.width),
            "inside": round(self.inside, 4),
            "fixed": self.fixed,
            "inside_fixed": round(self.inside_fixed, 4),
            "actors": self.actors,
        }


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
        self._clock[1:] = [(time.monotonic_ns(), second.shot_at)]
        self._pair = first, second

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()
        self._meeting.close()
        os.sched_setaffinity(0, self._cpus)


class Explore(Protocol):
    """The fixture by which tests run a campaign."""

    def __call__(self, attempt: Callable[[], str], *, early: Collection[str]) -> None:
        """Make attempts, which return their outcome, as long as the budget allows."""


class Campaign:
    """Attempts at one race, which lead to its window."""

    def __init__(self, stage: Stage, early: Collection[str]) -> None:
        """In the outcomes `early` the first actor of the stage has come too early."""
        self._stage = stage
        self._early = early
        self._search = Search(seed())
        self._outcomes: Counter[str] = Counter()
        self._samples: list[tuple[float, bool]] = []
        self._fixed: list[float] = []
        self._overlapped = 0
        self._began = self._ended = time.monotonic()

    def run(self, attempt: Callable[[], str], seconds: float) -> None:
        """Make attempts for so long; `attempt` performs one and returns its outcome."""
        self._began = self._ended = time.monotonic()
        while self._ended < self._began + seconds:
            if self._outcomes.total() % _FIXED_EACH == _FIXED_EACH - 1:
                self._stage.lead = 0
                self._perform(attempt)
                self._fixed += [timing.offset for timing in [self._stage.timing] if timing]
            else:
                self._explore(attempt)
            self._ended = time.monotonic()

    def report(self) -> Report:
        """What came of it so far."""
        offsets = [offset for offset, _ in self._samples]
        found = band(self._samples) if len({early for _, early in self._samples}) == 2 else None
        per_ns = self._stage.ticks_per_ns
        return Report(
            attempts=self._outcomes.total(),
            seconds=max(self._ended - self._began, 1e-9),
            outcomes=dict(self._outcomes),
            overlapped=self._overlapped / max(self._outcomes.total(), 1),
            flip=(found.low + found.high) / 2 / per_ns if found else None,
            width=found.width / per_ns if found else None,
            inside=found.share(offsets) if found else 0.0,
            fixed=len(self._fixed),
            inside_fixed=found.share(self._fixed) if found else 0.0,
            reached=len({outcome in self._early for outcome in self._outcomes}) == 2,
            actors=_ACTORS[self._stage.spins],
        )

    def _explore(self, attempt: Callable[[], str]) -> None:
        stage = self._stage
        stage.lead = self._search.lead()
        early = self._perform(attempt) in self._early
        self._search.learn(stage.lead, early)
        if timing := stage.timing:
            self._samples.append((timing.offset, early))

    def _perform(self, attempt: Callable[[], str]) -> str:
        outcome = attempt()
        self._stage.clear()
        self._outcomes[outcome] += 1
        timing = self._stage.timing
        self._overlapped += timing is not None and timing.overlapped
        return outcome
