# SPDX-License-Identifier: GPL-2.0-only
import logging
import os
import pty
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from vm.console import Console

CONSOLES = Path(__file__).parent / "data" / "consoles"
STAMP = "[    1.234567] "
SECONDS = 20


@dataclass
class Line:
    """A console, its log, and QEMU's side of it."""

    console: Console
    log: Path
    qemu: int

    def show(self, data: bytes) -> None:
        """Have QEMU print something and end."""
        while data:
            data = data[os.write(self.qemu, data) :]
        self.hang_up()
        assert self.console.wait_for_end(SECONDS)

    def hang_up(self) -> None:
        os.close(self.qemu)
        self.qemu = -1


@contextmanager
def line_to(log: Path) -> Iterator[Line]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    line = Line(Console(master, log), log, slave)
    try:
        yield line
    finally:
        if line.qemu >= 0:
            line.hang_up()
        line.console.wait_for_end(SECONDS)
        os.close(master)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with line_to(tmp_path / "console-1.log") as made:
        yield made


class TestRecorded:
    @pytest.mark.parametrize("log", sorted(CONSOLES.glob("*.log")), ids=lambda log: log.stem)
    def test_log_is_byte_for_byte_what_came(self, line: Line, log: Path) -> None:
        line.show(log.read_bytes())
        assert line.log.read_bytes() == log.read_bytes()

    @pytest.mark.parametrize(
        ("log", "found"),
        [
            ("clean", []),
            ("panic", [(5, "sysrq triggered crash", True)]),
            ("init-killed", [(4, "Attempted to kill init! exitcode=0x0000000b", True)]),
            ("out-of-memory", []),
        ],
    )
    def test_incidents(self, line: Line, log: str, found: list[tuple[int, str, bool]]) -> None:
        line.show((CONSOLES / f"{log}.log").read_bytes())
        incidents = [(one.line, one.text, one.panic) for one in line.console.incidents()]
        assert incidents == found

    def test_splat_is_an_incident_but_no_panic(self, line: Line) -> None:
        line.show((CONSOLES / "warning.log").read_bytes())
        first = line.console.incidents()[0]
        assert (first.line, first.panic) == (5, False)
        assert first.text == (
            "WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90, CPU#0: init/43"
        )
        assert line.console.panic_reason() == ""

    def test_panic_reason(self, line: Line) -> None:
        line.show((CONSOLES / "panic.log").read_bytes())
        assert line.console.panic_reason() == "sysrq triggered crash"

    def test_where_a_test_is(self, line: Line) -> None:
        text = (CONSOLES / "clean.log").read_bytes()
        line.show(text)
        place = line.console.lines_of("faults/test_faults.py::test_crashes")
        assert place is not None
        lines = text.decode().splitlines()[place[0] - 1 : place[1]]
        assert len(lines) == 4
        assert "start faults/test_faults.py::test_crashes" in lines[0]
        assert "segfault" in lines[1]
        assert "finish faults/test_faults.py::test_crashes" in lines[-1]

    def test_where_a_test_is_that_never_finished(self, line: Line) -> None:
        line.show((CONSOLES / "panic.log").read_bytes())
        last = len((CONSOLES / "panic.log").read_bytes().splitlines())
        place = line.console.lines_of("faults/test_faults.py::test_panics_the_kernel")
        assert place == (3, last)
        assert line.console.lines_of("faults/test_faults.py::test_after") is None


class TestLines:
    def test_tail(self, line: Line) -> None:
        line.show("".join(f"line {n}\r\n" for n in range(5000)).encode())
        assert line.console.tail(2) == ["line 4998", "line 4999"]
        assert line.console.tail(10_000)[0] == "line 3000"

    def test_last_line_needs_no_line_feed(self, line: Line) -> None:
        line.show((STAMP + "Kernel panic - not syncing: short").encode())
        assert line.console.panic_reason() == "short"
        assert line.console.tail(1) == [STAMP + "Kernel panic - not syncing: short"]

    def test_panic_behind_a_flood_without_line_feeds(self, line: Line) -> None:
        panic = f"{STAMP}Kernel panic - not syncing: drowned\r\n"
        line.show(b"x" * (1 << 20) + panic.encode())
        assert line.console.panic_reason() == "drowned"

    def test_bytes_that_are_no_text(self, line: Line) -> None:
        line.show(bytes(range(256)) * 10 + b"\n" + STAMP.encode() + b"WARNING: \xff\n")
        assert line.console.incidents()[-1].text == "WARNING: \ufffd"

    def test_flood_of_warnings_is_not_kept_but_the_panic_is(self, line: Line) -> None:
        warnings = f"{STAMP}WARNING: again\n" * 3000
        line.show(f"{warnings}{STAMP}Kernel panic - not syncing: enough\n".encode())
        assert len(line.console.incidents()) == 1001
        assert line.console.panic_reason() == "enough"

    def test_nothing_at_all(self, line: Line) -> None:
        line.show(b"")
        assert (line.console.tail(30), line.console.incidents()) == ([], [])
        assert line.log.read_bytes() == b""


class TestWaiting:
    def test_for_the_kernel(self, line: Line) -> None:
        os.write(line.qemu, b"SeaBIOS (version 1.16.3)\r\nBooting from ROM...\r\n")
        assert not line.console.wait_for_kernel(0.05)
        os.write(line.qemu, b"[    0.000000] Linux version 7.3.4\r\n")
        assert line.console.wait_for_kernel(SECONDS)

    def test_for_the_kernel_of_a_machine_that_has_ended(self, line: Line) -> None:
        line.hang_up()
        assert line.console.wait_for_kernel(SECONDS)

    def test_for_the_end(self, line: Line) -> None:
        assert not line.console.wait_for_end(0.05)
        line.hang_up()
        assert line.console.wait_for_end(SECONDS)


class TestTyping:
    def test_sysrq_is_a_break_and_a_letter_each(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vm.console._SYSRQ_SECONDS", 0.01)
        line.console.sysrq("wt")
        assert os.read(line.qemu, 100) == b"\x01bw\x01bt"

    def test_next_command_waits_for_the_end_of_the_answer(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vm.console._SYSRQ_SECONDS", 0.2)
        times: list[float] = []

        def answer() -> None:
            os.read(line.qemu, 3)
            for _ in range(5):
                os.write(line.qemu, b"a task\r\n")
                time.sleep(0.1)
            times.append(time.monotonic())
            os.read(line.qemu, 3)
            times.append(time.monotonic())

        guest = threading.Thread(target=answer)
        guest.start()
        line.console.sysrq("wt")
        guest.join(SECONDS)
        ended, asked_again = times
        assert asked_again > ended

    def test_to_a_machine_that_has_ended(self, line: Line) -> None:
        line.show(b"")
        line.console.sysrq("t")
        assert line.console.tail(1) == []


class TestLog:
    def test_flood_is_cut_off_but_still_watched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vm.console.LOG_LIMIT", 1000)
        with line_to(tmp_path / "log") as line:
            line.show(b"x" * 5000 + f"\n{STAMP}Kernel panic - not syncing: late\n".encode())
            assert line.console.panic_reason() == "late"
        text = line.log.read_bytes()
        assert text[:1000] == b"x" * 1000
        assert text[1000:].strip() == (
            b"[nsconform: the log is full, the rest of this console is not kept]"
        )

    def test_full_disk_stops_the_log_but_not_the_guest(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING), line_to(Path("/dev/full")) as line:
            line.show(b"x\n" * 100_000 + f"{STAMP}Kernel panic - not syncing: late\n".encode())
            assert line.console.panic_reason() == "late"
        assert caplog.messages == ["/dev/full is cut off: No space left on device"]

    def test_log_that_cannot_be_made(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Console(0, tmp_path / "nowhere" / "log")

    def test_what_has_come_is_in_the_log_at_once(self, line: Line) -> None:
        os.write(line.qemu, b"[    0.000000] half a li")
        deadline = time.monotonic() + SECONDS
        while not (text := line.log.read_bytes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert text == b"[    0.000000] half a li"
