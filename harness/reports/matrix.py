# SPDX-License-Identifier: GPL-2.0-only
"""The summary of a run for a terminal: what ran where, the verdicts, and every finding."""

import re
from collections.abc import Mapping, Sequence
from itertools import count

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.catalogue import Behaviour
from harness.reports.findings import render_findings
from harness.reports.tables import GAP, plain_table
from harness.reports.text import counts, number, on_terminal, tally
from harness.results import KernelResult, Outcome, RunResult, TestResult

# Longer headings are folded: as wide as "12 TIMEOUT", the widest cell that is to be expected.
_HEADING = 10
_STYLES = {"pass": "green", "skip": "dim", "flaky": "yellow", "known": "yellow", "ok": "bold green"}
_BAD = "bold red"


def render(run: RunResult, catalogue: Mapping[str, Behaviour], console: Console) -> None:
    """Print the summary of a run, as wide as the console is; nothing is told by colour alone."""
    labels = _labels(run.kernels)
    results = [test for _, test in run.tests()]
    state = "" if run.finished else ", cut off"
    console.print(on_terminal(f"nsconform {run.version}, run {run.id}{state}", console))
    for table in (_kernels(run, labels, console), *_matrices(run, labels, console)):
        console.print()
        console.print(table)
    console.print()
    for line in dict.fromkeys(_machine(kernel) for kernel in run.kernels if kernel.accel):
        console.print(on_terminal(line, console))
    render_findings(run, catalogue, labels, console)
    size = f"{number(len(run.kernels), 'kernel')}, {number(len(results), 'result')}"
    console.print()
    console.print(on_terminal(f"{size}: {counts(results)}", console, "bold"))


def _labels(kernels: Sequence[KernelResult]) -> dict[str, str]:
    """A short heading for each spec: the version, the release or the spec, the first that no
    other kernel of the run shares."""
    candidates = {kernel.spec: _names(kernel) for kernel in kernels}
    taken = [name for names in candidates.values() for name in dict.fromkeys(names)]
    return {
        spec: next((name for name in names if taken.count(name) == 1), spec)
        for spec, names in candidates.items()
    }


def _names(kernel: KernelResult) -> tuple[str, ...]:
    version = re.match(r"\d+\.\d+(\.\d+)?(-rc\d+)?", kernel.release)
    shortest = version[0] if version else kernel.spec.rpartition(":")[2]
    return shortest, kernel.release or kernel.spec, kernel.spec


def _machine(kernel: KernelResult) -> str:
    reason = f": {kernel.accel_reason}" if kernel.accel_reason else ""
    return f"{kernel.accel}, QEMU {kernel.qemu}, {number(kernel.cpus, 'CPU')}{reason}"


def _kernels(run: RunResult, labels: Mapping[str, str], console: Console) -> Table:
    table = plain_table(console)
    for heading in ("kernel", "spec", "release", "boots"):
        table.add_column(heading, overflow="fold")
    for kernel in run.kernels:
        cells = (labels[kernel.spec], kernel.spec, kernel.release, str(len(kernel.boots)))
        table.add_row(*(on_terminal(cell, console) for cell in cells))
    return table


def _matrices(run: RunResult, labels: Mapping[str, str], console: Console) -> list[Table]:
    """As few tables as the width of the console allows, with about as many kernels in each."""
    suites = list(dict.fromkeys(test.suite for _, test in run.tests()))
    names = [Text("suite"), *(on_terminal(suite, console) for suite in suites), Text("verdict")]
    columns = [
        [on_terminal(labels[kernel.spec], console), *_cells(kernel, suites), _verdict(kernel)]
        for kernel in run.kernels
    ]
    room = console.width - _width(names)
    for tables in count(1):
        size = -(-len(columns) // tables)
        parts = [columns[n : n + size] for n in range(0, len(columns), max(size, 1))]
        if size <= 1 or all(sum(map(_width, part)) <= room for part in parts):
            break
    return [_matrix([names, *part], console) for part in parts]


def _cells(kernel: KernelResult, suites: Sequence[str]) -> list[Text]:
    by_suite = kernel.suites()
    return [_cell(by_suite.get(suite, ())) for suite in suites]


def _cell(tests: Sequence[TestResult]) -> Text:
    lines = [Text(f"{many} {name}", _STYLES.get(name, _BAD)) for name, many in tally(tests).items()]
    return Text("\n").join(lines) if lines else Text("-")


def _verdict(kernel: KernelResult) -> Text:
    if not kernel.has_verdict:
        return Text("none", _BAD)
    if any(test.failed for test in kernel.tests):
        return Text("FAILED", _BAD)
    if any(test.outcome is Outcome.NOTRUN for test in kernel.tests):
        return Text("incomplete", _BAD)
    return Text("ok", _STYLES["ok"])


def _width(column: Sequence[Text]) -> int:
    heading, *cells = column
    lines = (line.cell_len for cell in cells for line in cell.split())
    return max(min(heading.cell_len, _HEADING), *lines) + GAP


def _matrix(columns: Sequence[Sequence[Text]], console: Console) -> Table:
    table = plain_table(console)
    for column in columns:
        first = column is columns[0]
        width = _width(column) - GAP
        table.add_column(
            column[0], justify="left" if first else "right", width=width, overflow="fold"
        )
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table
