# SPDX-License-Identifier: GPL-2.0-only
"""Results as KTAP version 1 (Documentation/dev-tools/ktap.rst of the kernel)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from harness.reports.text import counts, printable, why, word
from harness.results import KernelResult, Outcome, RunResult, TestResult

# kunit's parser knows no directive but SKIP, so that each of these needs "not ok" beside it.
_DIRECTIVES = {
    Outcome.TIMEOUT: "TIMEOUT",
    Outcome.CRASH: "ERROR crash:",
    Outcome.ERROR: "ERROR",
    Outcome.NOTRUN: "ERROR not run:",
}


class _Entry(NamedTuple):
    ok: bool
    name: str
    remark: str
    before: Sequence[str]


def ktap(kernel: KernelResult) -> str:
    """One kernel's results: a block for every suite, the tests in it."""
    return _text(_block(_suites(kernel), _about(kernel)))


def ktap_run(run: RunResult) -> str:
    """All results of a run: a block for every kernel, the suites in it, the tests in them."""
    kernels = [_group(k.spec, _suites(k), _about(k)) for k in run.kernels]
    return _text(_block(kernels, [f"run: {run.id}", f"nsconform: {run.version}"]))


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _suites(kernel: KernelResult) -> list[_Entry]:
    return [
        _group(suite, [_test(test) for test in tests], [counts(tests)])
        for suite, tests in kernel.suites().items()
    ]


def _about(kernel: KernelResult) -> list[str]:
    return [
        f"kernel: {kernel.spec}",
        f"release: {kernel.release}",
        f"accel: {kernel.accel} {kernel.accel_reason}".rstrip(),
        *(f"boot {boot.n}: {boot.end}" for boot in kernel.boots),
    ]


def _group(name: str, entries: Sequence[_Entry], notes: Iterable[str]) -> _Entry:
    skipped = entries and all(entry.remark.startswith("SKIP") for entry in entries)
    return _Entry(
        ok=bool(entries) and all(entry.ok for entry in entries),
        name=name,
        remark="SKIP every test in it" if skipped else "",
        before=[f"  {line}" for line in _block(entries, notes)],
    )


def _block(entries: Sequence[_Entry], notes: Iterable[str]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"1..{len(entries)}"
    yield from _diagnostics(notes)
    for number, entry in enumerate(entries, start=1):
        yield from entry.before
        result = "ok" if entry.ok else "not ok"
        remark = f" # {_one_line(entry.remark)}" if entry.remark else ""
        yield f"{result} {number} {_description(entry.name)}{remark}"


def _test(test: TestResult) -> _Entry:
    ok = test.outcome is not Outcome.NOTRUN and not test.failed
    return _Entry(ok, test.id, _remark(test), list(_diagnostics(_notes(test))))


def _remark(test: TestResult) -> str:
    if test.outcome is Outcome.SKIP:
        return f"SKIP {why(test)}".rstrip()
    if word(test) == "known":
        return f"XFAIL {test.known_issue}"
    if test.flaky or test.outcome not in _DIRECTIVES:
        return ""
    return f"{_DIRECTIVES[test.outcome]} {why(test)}".rstrip()


def _notes(test: TestResult) -> Iterator[str]:
    if not test.outcome.bad:
        return
    yield f"{test.id}: {word(test)}"
    if test.flaky:
        yield f"{test.outcome} in some of {test.attempts} attempts"
    yield f"behaviours: {' '.join(test.behaviours)}"
    yield f"reason: {why(test)}"
    # "# ok 1 x" is a result of a nested test to readers of kselftest's output.
    yield from (f"| {line}" for line in test.detail.splitlines())


def _diagnostics(notes: Iterable[str]) -> Iterator[str]:
    return (f"# {printable(line)}".rstrip() for note in notes for line in note.splitlines())


def _description(name: str) -> str:
    # A number sign begins the directive; ids that differ must not become the same.
    return _one_line(name).replace("%", "%25").replace("#", "%23")


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
