# SPDX-License-Identifier: GPL-2.0-only
"""The search for a sequence of operations after which kernel and model disagree, by hypothesis.

Nothing but the tests that explore may import this: hypothesis takes a slow guest seconds to load.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from .campaigns import Campaign
from .operations import Clone, Operation, Unshare
from .places import Join
from .plays import PROGRESS, Play, Player, SpoiltError, StuckError
from .rules import Disagreement, Rule
from .stage import Stage
from .strategies import sequences

SHRINK_SECONDS = 8.0
"""How long a disagreement may be shrunk, on whatever machine; in half of it by hypothesis."""
RULES_AT_MOST = 4
"""After so many broken rules the search ends: a test's deadline has room for shrinking these."""

# hypothesis reads all sources for constants that are worth a try, which takes a slow guest five
# seconds; the operands here are small numbers.
providers._get_local_constants = Constants


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that the kernel does not keep, by the shortest sequence found that shows it."""

    rule: Rule
    play: Play
    message: str

    def __str__(self) -> str:
        """Return it for a kernel developer to read."""
        rule = self.rule
        return "\n".join(
            (
                f"{rule.name}: after",
                *(f"    {line}" for line in self.play.lines),
                self.message,
                f"Rule: {rule.text}",
                f"Source: {rule.source}. Behaviours: {', '.join(rule.behaviours)}",
            )
        )


@dataclass
class Search:
    """What has been found and tried so far."""

    findings: dict[str, Finding] = field(default_factory=dict)
    plays: int = 0
    operations: int = 0
    is_over: bool = False


class _TimeUp(BaseException):
    """Ends hypothesis' search; not an Exception, which it would take for a finding."""


def search(campaign: Campaign, stage: Stage, seconds: float, seed: int) -> Search:
    """Play sequences for so many seconds, or until RULES_AT_MOST are found broken; each is shrunk,
    for no more than SHRINK_SECONDS besides, and left aside from then on.

    The same seed and the same answers give the same sequences.
    """
    result = Search()
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(result.findings) < RULES_AT_MOST and not result.is_over:
        end += _Hunt(result, campaign, stage, end).run(seed)
        seed += 1
    return result


class _Hunt:
    """One run of hypothesis, which ends with the first rule that is found broken, and shrunk."""

    def __init__(self, result: Search, campaign: Campaign, stage: Stage, end: float) -> None:
        self._result, self._campaign, self._end = result, campaign, end
        known = frozenset(result.findings)
        self._player = Player(stage, known, with_removal=campaign.with_removal)
        self._rule = ""
        self._found = 0.0

    def run(self, seed: int) -> float:
        """Go on until a rule is found broken, or the time is up; returns the seconds it took to
        shrink the sequence."""

        @seeded(seed)
        @settings(
            database=None,
            deadline=None,
            max_examples=100_000,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(sequences(self._campaign.weights, self._campaign.length))
        def attempt(operations: list[Operation]) -> None:
            self._play(operations)

        # What the kernel does once, and then never again, is a finding all the same.
        with suppress(_TimeUp, Disagreement, Flaky):
            attempt()
        if not self._rule or self._result.is_over:
            return 0.0
        self._end = self._found + SHRINK_SECONDS
        with suppress(_TimeUp):
            self._shorten()
        return time.monotonic() - self._found

    def _play(self, operations: list[Operation]) -> None:
        if time.monotonic() > self._end:
            raise _TimeUp
        done = Play()
        try:
            self._player.play(operations, done)
        except SpoiltError:
            return
        except StuckError as error:
            self._result.findings[PROGRESS.name] = Finding(PROGRESS, done, str(error))
            self._result.is_over = True
            raise _TimeUp from error
        except Disagreement as error:
            self._keep(error, done)
            if error.rule.name == self._rule:
                raise
        finally:
            self._result.plays += 1
            self._result.operations += len(done.lines)

    def _keep(self, error: Disagreement, done: Play) -> None:
        if not self._rule:
            self._rule = error.rule.name
            self._found = time.monotonic()
            self._end = self._found + SHRINK_SECONDS / 2
        best = self._result.findings.get(self._rule)
        is_better = best is None or _size(done) < _size(best.play)
        if error.rule.name == self._rule and is_better:
            self._result.findings[self._rule] = Finding(error.rule, done, str(error))

    def _shorten(self) -> None:
        """Leave out one operation after the other, and one type after the other: hypothesis takes
        phrases as a whole."""
        at = 0
        while at < len(self._best().play.operations):
            best = self._best()
            for shorter in _shorter(best.play.operations, at):
                with suppress(Disagreement):
                    self._play(shorter)
                if self._best() is not best:
                    break
            else:
                at += 1

    def _best(self) -> Finding:
        return self._result.findings[self._rule]


def _size(play: Play) -> tuple[int, int]:
    return len(play.lines), sum(map(len, play.lines))


def _shorter(operations: list[Operation], at: int) -> Iterator[list[Operation]]:
    """The sequence without the operation at a position, and with fewer types there."""
    before, one, after = operations[:at], operations[at], operations[at + 1 :]
    yield before + after
    if isinstance(one, Clone | Unshare | Join) and one.kinds & (one.kinds - 1):
        for kind in one.kinds:
            yield [*before, replace(one, kinds=one.kinds & ~kind), *after]
