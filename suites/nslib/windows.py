# SPDX-License-Identifier: GPL-2.0-only
"""The search for the window of a race: the lead at which one outcome turns into the other."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_FIRST_STEP = 2000.0
_FIRST_WIDTH = 1000.0
_LEAST_WIDTH = 200.0
_MEMORY = 64
_REVIEW = 16  # attempts between two estimates of the width
_GAIN = 0.1
_STREAK = 16  # so many equal outcomes mean that the flip has gone elsewhere
_LIMIT = 1e8
# A lead so many times farther away than was asked for says nothing about the flip.
_FAR = 20
# How far around the flip, in widths: a bug's window may lie beside it, or be wider.
_SPREADS = (1, 1, 1, 1, 1, 4, 4, 16)


class Search:
    """Proposes leads: first by growing and halving steps, then around the flip by chance.

    The lead is how much later one side acts, in any unit; an outcome is early when that side
    should have acted later. Stochastic approximation: each outcome moves the centre a little
    towards the other one, so that it stays where both are equally frequent. What counts is the
    lead that an attempt had: on a busy machine that is often not the one that was proposed.
    """

    def __init__(self, seed: int) -> None:
        """Start at no lead; `seed` makes the jitter repeatable."""
        self._random = random.Random(seed)  # noqa: S311 - jitter, no secret
        self.flip = 0.0
        self.width = _FIRST_WIDTH
        self._step = _FIRST_STEP
        self._bracketed = False
        self._last: bool | None = None
        self._streak = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=_MEMORY)
        self._count = 0

    @property
    def sampling(self) -> bool:
        """Whether the flip is found."""
        return self._step <= self.width

    def lead(self) -> int:
        """The lead to try next."""
        spread = self.width * self._random.choice(_SPREADS) if self.sampling else 0
        return round(self.flip + self._random.uniform(-spread, spread))

    def learn(self, lead: float, early: bool) -> None:
        """Take in what came of an attempt, and the lead that it had."""
        if self.sampling and abs(lead - self.flip) > _FAR * self.width:
            return
        self._streak = self._streak + 1 if early == self._last else 1
        if not self.sampling:
            self._stepped(early)
            self._last = early
            return
        self._last = early
        self._sampled(lead, early)

    def _stepped(self, early: bool) -> None:
        if self._last is not None:
            self._bracketed |= early != self._last
            self._step *= 0.5 if self._bracketed else 2
        self._move(self._step, early)

    def _sampled(self, lead: float, early: bool) -> None:
        self._move(_GAIN * self.width, early)
        self._recent.append((lead, early))
        self._count += 1
        if self._streak >= _STREAK:
            self._step, self._bracketed, self._last = 16 * self.width, False, None
            self._streak = 0
        elif self._count % _REVIEW == 0:
            seen = overlap(self._recent)
            self.width = min(max(seen, self.width / 2, _LEAST_WIDTH), self.width * 2)

    def _move(self, by: float, early: bool) -> None:
        self.flip = min(max(self.flip + (by if early else -by), -_LIMIT), _LIMIT)


def overlap(samples: Sequence[tuple[float, bool]] | deque[tuple[float, bool]]) -> float:
    """How far leads that were early reach beyond those that were not, a tenth of each aside."""
    early = sorted(lead for lead, was_early in samples if was_early)
    late = sorted(lead for lead, was_early in samples if not was_early)
    if not early or not late:
        return 0.0
    return early[len(early) * 9 // 10] - late[len(late) // 10]


@dataclass(frozen=True, slots=True)
class Band:
    """The range of leads in which the outcome is open."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """From its low end to its high one."""
        return self.high - self.low

    def share(self, leads: Sequence[float]) -> float:
        """How many of the leads lie in it, of 1; 0 if there are none."""
        return sum(self.low <= lead <= self.high for lead in leads) / max(len(leads), 1)


def band(samples: Sequence[tuple[float, bool]]) -> Band:
    """The leads between which both outcomes were seen: those of the middle 80 % of the samples
    that lie on the wrong side of the best dividing line, which itself is inside.

    Needs both outcomes.
    """
    ordered = sorted(samples)
    # Left of the line all should be early. Errors with the line before ordered[n]:
    errors = sum(early for _, early in ordered)
    best, line = errors, 0
    for n, (_, early) in enumerate(ordered, start=1):
        errors += -1 if early else 1
        if errors < best:
            best, line = errors, n
    wrong = [lead for lead, early in ordered[:line] if not early]
    wrong += [lead for lead, early in ordered[line:] if early]
    middle = ordered[min(line, len(ordered) - 1)][0]
    cut = len(wrong) // 10
    kept = wrong[cut : len(wrong) - cut]
    return Band(min([middle, *kept]), max([middle, *kept]))
