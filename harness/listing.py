# SPDX-License-Identifier: GPL-2.0-only
"""What the commands that only print things print."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.catalogue import Behaviour
from harness.reports.junit import junit
from harness.reports.ktap import ktap_run
from harness.results import RunResult, TestResult
from vm import packages
from vm.errors import ConfigError


def print_tests(tests: Iterable[TestResult]) -> None:
    """Print a line for each test: its id and its behaviours."""
    for test in tests:
        print(test.id, *test.behaviours)


def print_behaviours(
    tests: Iterable[TestResult], catalogue: Mapping[str, Behaviour], *, everything: bool
) -> None:
    """Print behaviours with their sentences and, indented, the tests that assert them.

    Those that none of the tests asserts are printed only if `everything` is wanted.
    """
    by_behaviour: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        for behaviour in test.behaviours:
            by_behaviour[behaviour].append(test.id)
    for row in catalogue.values():
        if not everything and row.id not in by_behaviour:
            continue
        print(f"{row.id}  {row.sentence}")
        waived = [f"waived: {row.waived}"] if row.waived else []
        for line in [*by_behaviour[row.id], *waived] or ["no test"]:
            print(f"    {line}")


def print_kernels(suites: Sequence[str]) -> None:
    """Print the packaged kernels that the mirror offers: spec, suite, and whether it is cached."""
    for offer in packages.offered(suites):
        cached = "cached" if offer.cached else ""
        print(f"debian:{offer.version:24} {offer.suite:20} {cached}".rstrip())


def write_copies(run: RunResult, wanted: Mapping[str, Path | None]) -> None:
    """Write the reports that the user wants in files of their own.

    Raises ConfigError when a file cannot be written; the run directory has them all the same.
    """
    texts = {"junit": lambda: junit(run), "ktap": lambda: ktap_run(run)}
    for name, path in wanted.items():
        if path is None:
            continue
        try:
            path.write_text(texts[name](), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--{name} {path}: {error.strerror}; the results are kept") from None
