# SPDX-License-Identifier: GPL-2.0-only
"""What there is to say beside the counts: failures with their behaviours and upstream fixes,
flaky tests, known issues, skips, and what did not run."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.catalogue import Behaviour, Fix
from harness.reports.text import excerpt, on_terminal, why, word
from harness.results import KernelResult, Outcome, RunResult, TestResult

_INDENT = 4
# Ids, addresses and times, which differ from one boot to the next.
_CHANGING = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")


class _Finding(NamedTuple):
    """One result, and the kernels that agree on it."""

    test: TestResult
    kernels: tuple[str, ...]


def render_findings(
    run: RunResult, catalogue: Mapping[str, Behaviour], labels: Mapping[str, str], console: Console
) -> None:
    """Print every section that has something in it; `labels` names the kernel of each spec."""
    printer = _Printer(console, catalogue)
    sections: list[tuple[str, Iterable[_Finding], Callable[[_Finding], None]]] = [
        ("Failures", _grouped(run, labels, lambda test: test.failed), printer.failure),
        ("Flaky", _grouped(run, labels, lambda test: test.flaky), printer.flaky),
        ("Known issues", _grouped(run, labels, lambda test: word(test) == "known"), printer.known),
    ]
    for title, findings, show in sections:
        if worst_first := sorted(findings, key=_rank):
            printer.title(f"{title} ({len(worst_first)})")
            for finding in worst_first:
                show(finding)
    printer.reasons("Skipped", _reasons(run, labels, Outcome.SKIP))
    printer.reasons("Not run", _reasons(run, labels, Outcome.NOTRUN))
    printer.endings(run.kernels, labels)


def _rank(finding: _Finding) -> tuple[int, str]:
    return -finding.test.outcome.severity, finding.test.id


def _grouped(
    run: RunResult, labels: Mapping[str, str], wanted: Callable[[TestResult], bool]
) -> Iterator[_Finding]:
    """Findings that are the same on several kernels but for the numbers in them are one."""
    groups: dict[tuple[str, ...], list[tuple[TestResult, str]]] = {}
    for kernel, test in run.tests():
        if wanted(test):
            text = _CHANGING.sub("N", "\n".join([why(test), *excerpt(test.detail)]))
            key = (test.id, test.outcome, test.known_issue or "", text)
            groups.setdefault(key, []).append((test, labels[kernel.spec]))
    for members in groups.values():
        yield _Finding(members[0][0], tuple(label for _, label in members))


def _reasons(
    run: RunResult, labels: Mapping[str, str], outcome: Outcome
) -> dict[str, dict[str, int]]:
    """For every reason, on how many tests of which kernels it was given."""
    reasons: dict[str, dict[str, int]] = {}
    for kernel, test in run.tests():
        if test.outcome is outcome and kernel.has_verdict:
            numbers = reasons.setdefault(why(test) or "no reason given", {})
            label = labels[kernel.spec]
            numbers[label] = numbers.get(label, 0) + 1
    return reasons


class _Printer:
    def __init__(self, console: Console, catalogue: Mapping[str, Behaviour]) -> None:
        self._console = console
        self._catalogue = catalogue

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(self._text(text, "bold"))

    def failure(self, finding: _Finding) -> None:
        self._head(finding, "bold red")
        self._indented(self._grid(self._behaviours(finding.test)))
        self._detail(finding.test)

    def flaky(self, finding: _Finding) -> None:
        self._head(finding, "yellow")
        self._line(f"in some of {finding.test.attempts} attempts: {why(finding.test)}")

    def known(self, finding: _Finding) -> None:
        self._head(finding, "yellow")
        self._line(f"known: {finding.test.known_issue}")

    def reasons(self, title: str, reasons: Mapping[str, Mapping[str, int]]) -> None:
        if not reasons:
            return
        self.title(title)
        for reason, numbers in reasons.items():
            self._line(f"{reason} ({_distribution(numbers)})", indent=2)

    def endings(self, kernels: Sequence[KernelResult], labels: Mapping[str, str]) -> None:
        without = [kernel for kernel in kernels if not kernel.has_verdict]
        if not without:
            return
        self.title(f"No verdict ({len(without)})")
        rows = [(labels[kernel.spec], kernel.ending) for kernel in without]
        self._indented(self._grid(rows), indent=2)

    def _head(self, finding: _Finding, style: str) -> None:
        self._console.print()
        outcome = finding.test.outcome.upper()
        self._console.print(self._text(f"{outcome}  {finding.test.id}", style))
        self._line(f"on {', '.join(finding.kernels)}")

    def _behaviours(self, test: TestResult) -> Iterator[tuple[str, str]]:
        """Each behaviour with its sentence, and under those that one change fixed, the change."""
        entries = [(name, self._catalogue.get(name)) for name in test.behaviours]
        for fix, group in groupby(entries, lambda entry: entry[1] and entry[1].fix):
            for name, behaviour in group:
                yield name, behaviour.sentence if behaviour else "(not in the catalogue)"
            if fix:
                yield "", _fix(fix)

    def _detail(self, test: TestResult) -> None:
        lines = excerpt(test.detail)
        if test.reason and not any(test.reason in line for line in lines):
            lines = [why(test), *lines]
        if test.console:
            first, last = test.console
            lines = [*lines, f"console of boot {test.boot}: lines {first} to {last}"]
        self._indented(self._grid([("|", line) for line in lines]))

    def _grid(self, rows: Iterable[tuple[str, str]]) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for left, right in rows:
            grid.add_row(self._text(left), self._text(right))
        return grid

    def _line(self, text: str, indent: int = _INDENT) -> None:
        self._indented(self._text(text), indent)

    def _indented(self, content: RenderableType, indent: int = _INDENT) -> None:
        self._console.print(Padding(content, (0, 0, 0, indent), expand=False))

    def _text(self, text: str, style: str = "") -> Text:
        return on_terminal(text, self._console, style)


def _fix(fix: Fix) -> str:
    what = f'{fix.commit[:12]} ("{fix.title}")' if fix.commit else f'"{fix.title}"'
    releases = ", ".join(fix.releases) or "no release yet"
    cve = f"; {fix.cve}" if fix.cve else ""
    return f"fixed upstream by {what} in {releases}{cve}"


def _distribution(numbers: Mapping[str, int]) -> str:
    labels: dict[int, list[str]] = {}
    for label, number in numbers.items():
        labels.setdefault(number, []).append(label)
    return "; ".join(
        f"{number} {'each ' if len(names) > 1 else ''}on {', '.join(names)}"
        for number, names in labels.items()
    )
