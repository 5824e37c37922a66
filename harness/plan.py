# SPDX-License-Identifier: GPL-2.0-only
"""From what the user asked for to the tests that will run."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from harness import catalogue
from harness.collect import SUITES, Collection, collect
from harness.exploration import LONG_SUITES
from harness.results import TestResult
from vm.errors import ConfigError


@dataclass(frozen=True)
class Selection:
    """Which tests to run: all of them, or those that satisfy every condition given.

    `suites` are names of folders, `behaviours` ids of the catalogue, `expression` is pytest's -k;
    `folder` is where the suites lie. Suites that take long are left out unless they are named, or
    `long` is true.
    """

    suites: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    expression: str = ""
    folder: Path = SUITES
    long: bool = False


def select(wanted: Selection) -> tuple[Collection, tuple[TestResult, ...]]:
    """Return the collection and the tests selected from it, in the order in which they run.

    Raises ConfigError for a suite or behaviour that does not exist, and when nothing is left.
    """
    collection = collect(wanted.expression, wanted.folder)
    everything = collect(suites=wanted.folder).tests if wanted.expression else collection.tests
    _check("suite", wanted.suites, sorted({test.suite for test in everything}))
    if wanted.behaviours:
        _check("behaviour", wanted.behaviours, sorted(catalogue.load()))
    tests = tuple(test for test in collection.tests if _matches(test, wanted))
    if not tests:
        raise ConfigError("no test is selected: `nsconform list` shows what there is")
    return collection, tests


def _matches(test: TestResult, wanted: Selection) -> bool:
    if wanted.suites and test.suite not in wanted.suites:
        return False
    if test.suite in LONG_SUITES and not (wanted.long or wanted.suites):
        return False
    return not wanted.behaviours or not set(wanted.behaviours).isdisjoint(test.behaviours)


def _check(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3) or known[:12]
            raise ConfigError(f"there is no {what} {name}; near it: {', '.join(near)}")
