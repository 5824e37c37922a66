# SPDX-License-Identifier: GPL-2.0-only
"""Races that reach their window: two prepared system calls, at a distance that is searched for.

Each attempt ends in one of several outcomes. Where they flip is the window: the search (see
nslib.windows) moves there and stays, so that most attempts meet the kernel between two steps of
one call while the other takes effect.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from .budgets import seed
from .stage import Stage
from .windows import Search, band

_LEAST = 25
# One in so many attempts is made without a lead.
_FIXED_EACH = 10
# Ticks of the TSC in a turn of an actor's delay: the median of the last attempts that had a lead
# worth the name.
_RATIOS = 15
_LONG_LEAD = 1000
_LEAST_RATIO = 0.1
_ACTORS = {
    True: "on two CPUs, released by a spin barrier",
    False: "without a barrier: one sleeps for the lead, and takes the CPU when it wakes up",
}


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
        self._ratios: deque[float] = deque([1.0], maxlen=_RATIOS)
        self._overlapped = 0
        self._began = self._ended = time.monotonic()

    def run(self, attempt: Callable[[], str], seconds: float) -> None:
        """Make attempts for so long, and some in any case; `attempt` performs one and returns its
        outcome."""
        self._began = self._ended = time.monotonic()
        while self._ended < self._began + seconds or self._outcomes.total() < _LEAST:
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
        stage, wanted = self._stage, self._search.lead()
        stage.lead = round(wanted / median(self._ratios))
        early = self._perform(attempt) in self._early
        if not (timing := stage.timing):
            self._search.learn(wanted, early)
            return
        self._search.learn(timing.offset, early)
        self._samples.append((timing.offset, early))
        if abs(stage.lead) > _LONG_LEAD:
            self._ratios.append(max(timing.offset / stage.lead, _LEAST_RATIO))

    def _perform(self, attempt: Callable[[], str]) -> str:
        outcome = attempt()
        self._stage.clear()
        self._outcomes[outcome] += 1
        timing = self._stage.timing
        self._overlapped += timing is not None and timing.overlapped
        return outcome
