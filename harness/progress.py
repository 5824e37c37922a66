# SPDX-License-Identifier: GPL-2.0-only
"""What a run shows while it goes on: a live display on terminals, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.reports.text import counts, on_terminal, why, word
from harness.results import KernelResult, TestResult


class Progress(Protocol):
    """What a session reports while it runs; called from one thread per kernel."""

    def kernel_started(self, spec: str, total: int) -> None:
        """Work on a kernel begins; `total` tests are to be run on it."""

    def booting(self, spec: str, boot: int, accel: str, why: str) -> None:
        """Boot number `boot` begins; `why` it is needed is empty for the first."""

    def test_started(self, spec: str, test: str) -> None:
        """The guest has begun a test."""

    def test_finished(self, spec: str, result: TestResult) -> None:
        """A test has a result; that of an earlier attempt is void."""

    def note(self, spec: str, text: str) -> None:
        """Something that the user should know, in one line."""

    def kernel_finished(self, spec: str, result: KernelResult) -> None:
        """Nothing more is to come for this kernel."""


def make_progress(stream: TextIO) -> AbstractContextManager[Progress]:
    """The display that suits `stream`, to be entered before the session starts."""
    console = Console(file=stream, highlight=False)
    # FORCE_COLOR makes rich call a CI log a terminal; it cannot take cursor movements all the same.
    if stream.isatty() and not console.is_dumb_terminal:
        return LiveProgress(console)
    return PlainProgress(console)


@dataclass
class _Kernel:
    total: int
    started: float
    ended: float | None = None
    doing: str = "waiting"
    results: dict[str, TestResult] = field(default_factory=dict)


class PlainProgress:
    """One line for every boot, note and failure, and a summary for every kernel; a Progress."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Print to `console`; `clock` counts seconds."""
        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._kernels: dict[str, _Kernel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is pending: every line is out."""

    def kernel_started(self, spec: str, total: int) -> None:
        """Begin a kernel's tally."""
        with self._lock:
            self._kernels[spec] = _Kernel(total, self._clock())

    def booting(self, spec: str, boot: int, accel: str, why: str) -> None:
        """Say that a boot begins."""
        text = f"boot {boot} ({accel})" + (f": {why}" if why else "")
        self._do(spec, text)
        self._report(spec, text)

    def test_started(self, spec: str, test: str) -> None:
        """Remember what is running."""
        self._do(spec, test)

    def test_finished(self, spec: str, result: TestResult) -> None:
        """Count a result, and say so if it is a bad one."""
        with self._lock:
            self._kernels[spec].results[result.id] = result
        if result.outcome.bad:
            self._say(spec, f"{word(result)} {result.id}: {why(result)}")

    def note(self, spec: str, text: str) -> None:
        """Say it."""
        self._say(spec, text)

    def kernel_finished(self, spec: str, result: KernelResult) -> None:
        """Sum a kernel up."""
        with self._lock:
            kernel = self._kernels[spec]
            kernel.ended = self._clock()
            kernel.results = {test.id: test for test in result.tests}
            kernel.doing = "done" if result.has_verdict else f"no verdict: {result.ending}"
            elapsed = _elapsed(kernel.ended - kernel.started)
        self._report(spec, f"{kernel.doing} in {elapsed}: {counts(result.tests)}")

    def _do(self, spec: str, what: str) -> None:
        with self._lock:
            self._kernels[spec].doing = what

    def _report(self, spec: str, text: str) -> None:
        self._say(spec, text)

    def _say(self, spec: str, text: str) -> None:
        # Not under the lock: rich draws a live display while it prints, and that takes the lock.
        self._console.print(on_terminal(f"{spec}: {text}", self._console), soft_wrap=True)


class LiveProgress(PlainProgress):
    """A line for every kernel, kept up to date; notes and failures scroll by above."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw on `console`, a terminal; `clock` counts seconds."""
        super().__init__(console, clock)
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _report(self, spec: str, text: str) -> None:
        """The kernel's own line shows it."""

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1, 0, 0), expand=True)
        table.add_column(no_wrap=True, max_width=20)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="crop", ratio=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        with self._lock:
            for spec, kernel in self._kernels.items():
                table.add_row(*(on_terminal(t, self._console) for t in self._row(spec, kernel)))
        return table

    def _row(self, spec: str, kernel: _Kernel) -> tuple[str, ...]:
        return (
            spec[-20:],
            f"{len(kernel.results)}/{kernel.total}",
            kernel.doing.rpartition("::")[2],
            counts(kernel.results.values()) if kernel.results else "",
            _elapsed((kernel.ended or self._clock()) - kernel.started),
        )


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
