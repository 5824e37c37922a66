# SPDX-License-Identifier: GPL-2.0-only
"""Results as JUnit XML, in the form that Jenkins, GitLab and GitHub read.

There is no standard; this is what they have in common: one `testsuite` for every kernel and
suite, in each `testcase` at most one of `failure`, `error`, `skipped`, then `system-out`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from harness.reports.text import printable, why, word
from harness.results import KernelResult, Outcome, RunResult, TestResult

# A failure is the kernel's; an error is all that kept a test from an answer.
_ELEMENTS = {
    Outcome.SKIP: "skipped",
    Outcome.NOTRUN: "error",
    Outcome.ERROR: "error",
    Outcome.SPLAT: "failure",
    Outcome.FAIL: "failure",
    Outcome.TIMEOUT: "error",
    Outcome.CRASH: "error",
}


class _Totals(NamedTuple):
    tests: int
    failures: int
    errors: int
    skipped: int
    seconds: float

    def attributes(self) -> dict[str, str]:
        return {
            "tests": str(self.tests),
            "failures": str(self.failures),
            "errors": str(self.errors),
            "skipped": str(self.skipped),
            "time": f"{self.seconds:.3f}",
        }


def junit(run: RunResult) -> str:
    """All results of a run; a run of one kernel gives that kernel's file."""
    tests = [test for _, test in run.tests()]
    root = Element("testsuites", {"name": f"nsconform {run.id}", **_totals(tests).attributes()})
    for kernel in run.kernels:
        for suite, members in kernel.suites().items():
            _add_suite(root, run, kernel, suite, members)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _totals(tests: Sequence[TestResult]) -> _Totals:
    elements = [_element(test) for test in tests]
    return _Totals(
        tests=len(tests),
        failures=elements.count("failure"),
        errors=elements.count("error"),
        skipped=elements.count("skipped"),
        seconds=sum(test.duration for test in tests),
    )


def _element(test: TestResult) -> str:
    if word(test) == "known":
        return "skipped"
    return "flakyFailure" if test.flaky else _ELEMENTS.get(test.outcome, "")


def _add_suite(
    root: Element, run: RunResult, kernel: KernelResult, suite: str, tests: Sequence[TestResult]
) -> None:
    name = printable(f"{kernel.spec}.{suite}")
    # Jenkins wants the time without a zone.
    attributes = {"name": name, "timestamp": run.started.removesuffix("Z")}
    element = SubElement(root, "testsuite", attributes | _totals(tests).attributes())
    properties = SubElement(element, "properties")
    for key, value in _properties(run, kernel):
        SubElement(properties, "property", name=key, value=printable(value))
    for test in tests:
        _add_case(element, name, test)


def _properties(run: RunResult, kernel: KernelResult) -> Iterator[tuple[str, str]]:
    yield "nsconform", run.version
    for key in ("spec", "release", "arch", "sha256", "accel", "accel_reason", "qemu"):
        yield key, getattr(kernel, key)
    yield "cpus", str(kernel.cpus)
    yield "features", " ".join(kernel.features)
    for boot in kernel.boots:
        yield f"boot {boot.n}", boot.end


def _add_case(suite: Element, class_name: str, test: TestResult) -> None:
    case = SubElement(
        suite,
        "testcase",
        classname=class_name,
        name=printable(test.id),
        time=f"{test.duration:.3f}",
    )
    if element := _element(test):
        message = test.known_issue if word(test) == "known" else why(test)
        verdict = SubElement(case, element, type=test.outcome, message=printable(message or ""))
        verdict.text = printable(test.detail)
    SubElement(case, "system-out").text = printable("\n".join(_output(test)))


def _output(test: TestResult) -> Iterator[str]:
    yield f"behaviours: {' '.join(test.behaviours)}"
    yield f"attempts: {test.attempts}" + (", of which some did well" if test.flaky else "")
    if test.console:
        yield f"console: lines {test.console[0]} to {test.console[1]} of boot {test.boot}"
    for name, value in test.observations.items():
        yield f"{name}: {json.dumps(value)}"
