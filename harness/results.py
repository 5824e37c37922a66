# SPDX-License-Identifier: GPL-2.0-only
"""What a run found out: tests, boots, kernels, the run as a whole, and their form in run.json."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from harness.decode import decode
from vm.errors import ConfigError

SCHEMA = "nsconform.run/1"


class Outcome(StrEnum):
    """What became of a test, from the mildest to the most severe.

    `splat`: the test passed, but the kernel logged a WARN, BUG, KASAN or lockdep report
    meanwhile; `crash`: the kernel died in it; `error`: the test itself is broken; `notrun`: no
    event confirms that it ran.
    """

    PASS = "pass"  # noqa: S105 (not a password)
    SKIP = "skip"
    NOTRUN = "notrun"
    ERROR = "error"
    SPLAT = "splat"
    FAIL = "fail"
    TIMEOUT = "timeout"
    CRASH = "crash"

    @property
    def severity(self) -> int:
        """Rank, 0 for pass; the most severe of several attempts is the one to show."""
        return list(Outcome).index(self)

    @property
    def bad(self) -> bool:
        """Whether it speaks against the kernel or the test (`notrun` speaks for neither)."""
        return self.severity >= Outcome.ERROR.severity


@dataclass(frozen=True)
class TestResult:
    """One test on one kernel; with nothing but its names, a selected test that has not run.

    `outcome` is the most severe of its attempts, and `flaky` says that some attempts were good
    and some bad. `boot` is the number of the boot that `outcome` comes from, `duration` is in
    seconds, `reason` is one line, `detail` many; `known_issue` is the explanation that somebody
    gave for the failure, and `console` the first and last line in the boot's console log.
    """

    __test__ = False  # pytest takes every class called Test… for a class of tests

    id: str
    suite: str
    behaviours: tuple[str, ...]
    outcome: Outcome = Outcome.NOTRUN
    flaky: bool = False
    attempts: int = 0
    boot: int | None = None
    duration: float = 0.0
    reason: str = ""
    detail: str = ""
    observations: Mapping[str, object] = field(default_factory=dict)
    known_issue: str | None = None
    console: tuple[int, int] | None = None

    @property
    def failed(self) -> bool:
        """Whether it counts as a failure: bad in every attempt, and not explained yet."""
        return self.outcome.bad and not self.flaky and self.known_issue is None


@dataclass(frozen=True)
class BootRecord:
    """The life of one virtual machine.

    `n` counts from 1, `console` is the name of its log in the kernel's directory, and `end` says
    how it ended: "clean", or in one line what went wrong. `start` is "cold" for a boot from the
    kernel's first instruction, "restored" for one from a snapshot.
    """

    n: int
    console: str
    seconds_to_first_test: float | None
    end: str
    start: str = "cold"


@dataclass(frozen=True)
class KernelResult:
    """All selected tests on one kernel; what is not known (yet) is empty."""

    spec: str
    release: str = ""
    arch: str = ""
    sha256: str = ""
    accel: str = ""
    accel_reason: str = ""
    qemu: str = ""
    cpus: int = 0
    features: tuple[str, ...] = ()
    boots: tuple[BootRecord, ...] = ()
    tests: tuple[TestResult, ...] = ()

    @property
    def has_verdict(self) -> bool:
        """Whether at least one test ran."""
        return any(test.outcome is not Outcome.NOTRUN for test in self.tests)

    @property
    def ending(self) -> str:
        """Why the last boot, or else the first test, got no further, in one line."""
        reasons = (test.reason for test in self.tests if test.reason)
        return self.boots[-1].end if self.boots else next(reasons, "never booted")

    def suites(self) -> dict[str, tuple[TestResult, ...]]:
        """The tests by suite, both in the order of `tests`."""
        names = dict.fromkeys(test.suite for test in self.tests)
        return {name: tuple(test for test in self.tests if test.suite == name) for name in names}


@dataclass(frozen=True)
class RunResult:
    """Some suites on some kernels; times are UTC, and `finished` is empty for a cut-off run.

    `seed` is that of what its tests chose by chance.
    """

    id: str
    started: str
    finished: str
    version: str
    kernels: tuple[KernelResult, ...] = ()
    seed: int = 0

    def tests(self) -> Iterable[tuple[KernelResult, TestResult]]:
        """Every test with the kernel that it was selected for."""
        return ((kernel, test) for kernel in self.kernels for test in kernel.tests)


def merge(known: TestResult, attempt: TestResult) -> TestResult:
    """Add one more `attempt` at a test to what is known of it so far.

    The more severe outcome stays, with its reason and detail; an attempt that came to nothing
    (`notrun`) changes nothing that an earlier one has established.
    """
    if known.outcome is Outcome.NOTRUN:
        return attempt
    if attempt.outcome is Outcome.NOTRUN:
        return known
    return replace(
        max(known, attempt, key=lambda result: result.outcome.severity),
        attempts=known.attempts + attempt.attempts,
        flaky=known.flaky or attempt.flaky or known.outcome.bad != attempt.outcome.bad,
    )


def exit_status(run: RunResult) -> int:
    """The exit status of a run: 0 all well, 1 a failure, 3 no verdict.

    A failure that was seen is a failure, whatever else is missing, so 1 comes before 3; 3 stands
    for a kernel that could not be booted and for tests that were not run. Flaky tests and known
    issues are reported but are no failure.
    """
    if any(test.failed for _, test in run.tests()):
        return 1
    complete = all(test.outcome is not Outcome.NOTRUN for _, test in run.tests())
    verdicts = [kernel.has_verdict for kernel in run.kernels]
    return 0 if complete and verdicts and all(verdicts) else 3


def to_json(run: RunResult) -> str:
    """The text of run.json."""
    return json.dumps({"schema": SCHEMA, **asdict(run)}, indent=1) + "\n"


def from_json(text: str, where: str = "run.json") -> RunResult:
    """Read what `to_json` wrote; keys that this version does not know are ignored.

    Raises ConfigError, with `where` in it, if `text` is something else.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not a JSON file: {error}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ConfigError(
            f"{where}: its schema is {schema!r:.60}, this nsconform reads only {SCHEMA!r};"
            " use the version that wrote it"
        )
    return decode(RunResult, data, where)
