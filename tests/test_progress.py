# SPDX-License-Identifier: GPL-2.0-only
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from harness.progress import LiveProgress, PlainProgress, Progress, make_progress
from harness.results import TestResult, from_json

KERNEL = from_json((Path(__file__).parent / "data" / "run.json").read_text()).kernels[1]
SPEC = KERNEL.spec


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def play(progress: Progress, clock: Clock) -> None:
    """A kernel from its start to its end, the last test twice."""
    progress.kernel_started(SPEC, len(KERNEL.tests))
    progress.booting(SPEC, 1, "tcg", "")
    for test in KERNEL.tests:
        progress.test_started(SPEC, test.id)
        progress.test_finished(SPEC, test)
    progress.note(SPEC, "3 lines on the results channel are no events")
    progress.booting(SPEC, 2, "tcg", "retry of 6 failures")
    progress.test_finished(SPEC, KERNEL.tests[-1])
    clock.now += 75
    progress.kernel_finished(SPEC, KERNEL)


class TestPlain:
    @pytest.fixture
    def lines(self) -> list[str]:
        stream, clock = io.StringIO(), Clock()
        with PlainProgress(Console(file=stream, width=80), clock) as progress:
            play(progress, clock)
        return stream.getvalue().splitlines()

    def test_boots_notes_and_failures_are_lines_and_passes_are_not(self, lines: list[str]) -> None:
        assert [line.removeprefix("debian:7.2.12: ").split()[0] for line in lines] == [
            "boot", "FAIL", "SPLAT", "flaky", "CRASH", "TIMEOUT", "ERROR", "known", "3", "boot",
            "known", "done",
        ]  # fmt: skip

    def test_lines_are_whole_however_long(self, lines: list[str]) -> None:
        assert lines[2] == (
            "debian:7.2.12: SPLAT listns/test_pagination.py::test_cursor_of_dead_namespace:"
            " WARNING: CPU: 1 PID: 97 at fs/nsfs.c:512 nsfs_evict+0x2c/0x40"
        )

    def test_boot_says_why(self, lines: list[str]) -> None:
        assert lines[0] == "debian:7.2.12: boot 1 (tcg)"
        assert lines[-3] == "debian:7.2.12: boot 2 (tcg): retry of 6 failures"

    def test_summary(self, lines: list[str]) -> None:
        assert lines[-1] == (
            "debian:7.2.12: done in 1:15: 1 pass, 1 known, 1 flaky, 1 ERROR, 1 SPLAT, 1 FAIL,"
            " 1 TIMEOUT, 1 CRASH"
        )

    def test_kernel_without_verdict(self) -> None:
        stream, clock = io.StringIO(), Clock()
        tests = tuple(TestResult(t.id, t.suite, t.behaviours) for t in KERNEL.tests)
        boot = replace(KERNEL.boots[0], end="kernel panic: no init")
        with PlainProgress(Console(file=stream, width=80), clock) as progress:
            progress.kernel_started(SPEC, len(tests))
            progress.kernel_finished(SPEC, replace(KERNEL, tests=tests, boots=(boot,)))
        assert stream.getvalue() == (
            "debian:7.2.12: no verdict: kernel panic: no init in 0:00: 8 NOTRUN\n"
        )

    def test_what_the_encoding_lacks_is_escaped(self) -> None:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        with PlainProgress(Console(file=stream)) as progress:
            progress.note(SPEC, "é → [bold] \x1b[31m")
        assert raw.getvalue() == rb"debian:7.2.12: \xe9 -> [bold] #x1B[31m" + b"\n"


class TestLive:
    def shown(self, width: int = 80) -> tuple[str, str]:
        """What scrolled by, and the last state of the display."""
        stream, clock = io.StringIO(), Clock()
        console = Console(file=stream, width=width, force_terminal=True, color_system=None)
        with LiveProgress(console, clock) as progress:
            play(progress, clock)
        above, _, table = stream.getvalue().rpartition("\x1b[2K")
        return above, table

    def test_last_state_is_one_line_per_kernel(self) -> None:
        _, table = self.shown(width=120)
        (line,) = table.replace("\x1b[?25h", "").strip().splitlines()
        assert re.sub(" +", " ", line).strip() == (
            "debian:7.2.12 8/8 done 1 pass, 1 known, 1 flaky, 1 ERROR, 1 SPLAT, 1 FAIL,"
            " 1 TIMEOUT, 1 CRASH 1:15"
        )

    def test_failures_and_notes_scroll_by_and_boots_do_not(self) -> None:
        above, _ = self.shown(width=200)
        assert "debian:7.2.12: FAIL listns/test_pagination.py::test_inactive_neighbour" in above
        assert "debian:7.2.12: 3 lines on the results channel are no events" in above
        assert "debian:7.2.12: boot 2" not in above

    def test_running_test_and_elapsed_time(self) -> None:
        stream, clock = io.StringIO(), Clock()
        console = Console(file=stream, width=80, force_terminal=True, color_system=None)
        with LiveProgress(console, clock) as progress:
            progress.kernel_started("/home/user/linux-next", 140)
            progress.test_finished("/home/user/linux-next", KERNEL.tests[0])
            progress.test_started("/home/user/linux-next", "s/test_a.py::test_running")
            clock.now += 12
        line = stream.getvalue().rpartition("home/user")[2]
        assert line.split()[:5] == ["/linux-next", "1/140", "test_running", "1", "pass"]
        assert "0:12" in line

    def test_a_slow_terminal_does_not_hold_up_the_tests(self) -> None:
        class SlowTerminal(io.StringIO):
            def write(self, text: str) -> int:
                if "slow" in text:
                    other = threading.Thread(
                        target=progress.test_started,
                        args=(SPEC, "s/test_a.py::test_b"),
                        daemon=True,
                    )
                    other.start()
                    other.join(timeout=10)
                    held_up.append(other.is_alive())
                return super().write(text)

        held_up: list[bool] = []
        with LiveProgress(Console(file=SlowTerminal(), force_terminal=True)) as progress:
            progress.kernel_started(SPEC, 1)
            progress.note(SPEC, "slow")
        assert held_up == [False]


class TestMakeProgress:
    @pytest.fixture
    def terminal(self) -> Iterator[TextIO]:
        master, slave = os.openpty()
        with os.fdopen(slave, "w") as stream:
            yield stream
        os.close(master)

    def test_terminal(self, terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(make_progress(terminal), LiveProgress)

    def test_terminal_that_cannot_move_its_cursor(
        self, terminal: TextIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "dumb")
        assert type(make_progress(terminal)) is PlainProgress

    def test_log_file_even_if_colours_are_forced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert type(make_progress(io.StringIO())) is PlainProgress
