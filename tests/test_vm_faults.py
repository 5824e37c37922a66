# SPDX-License-Identifier: GPL-2.0-only
"""Tests that misbehave, on a real kernel: what becomes of each, and of all the others."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.realruns import WITH_LISTNS, Run, completed, mutant
from vm.console import LOG_LIMIT

# Faults by their test: the outcome, and what the reason says.
FAULTS = {
    "before": ("pass", ""),
    "panics_the_kernel": ("crash", "kernel panic: sysrq triggered crash"),
    "hangs_in_the_kernel": ("timeout", r"no end after \d+ s, and SIGKILL does not end it"),
    "leaves_an_immortal_process_behind": ("fail", r"left behind: processes \['.+ \(pid \d+\)'\]"),
    "corrupts_the_agent": ("crash", "kernel panic: Attempted to kill init! exitcode=0x[0-9a-f]+"),
    "stops_the_agent": ("timeout", r"the guest has been silent for \d+ s"),
    "kills_the_agent": ("pass", ""),
    "spins_with_signals_blocked": ("timeout", r"no end after \d+ s"),
    "fills_memory": (
        "fail",
        r"the test's process was killed by SIGKILL; Out of memory: Killed process \d+ .*",
    ),
    "forks_without_end": ("timeout", r"no end after \d+ s"),
    "prints_without_end": ("error", "the test printed, or wrote to a file, more than 64 MB"),
    "floods_the_console": ("pass", ""),
    "writes_garbage_to_the_results_channel": ("pass", ""),
    "leaves_a_process_and_its_namespace_behind": (
        "fail",
        r"left behind: processes \['.+ \(pid \d+\)'\]",
    ),
    "exits": ("error", r"the test ended its process with exit\(3\)"),
    "lets_a_child_come_back": ("error", "a child of the test came back from it: .*"),
    "crashes": ("fail", "the test's process was killed by SIGSEGV"),
    "raises_what_is_the_tests_own_fault": ("error", "TypeError: a mistake"),
    "revives_a_namespace": ("pass", ""),
    "after": ("pass", ""),
    "leaves_a_mount_behind": ("fail", r"left behind: mounts \['.* /tmp .*'\]"),
}
# What each boot ends with; the last fault spoils the guest that nobody needs any more.
BOOTS = [
    "kernel panic: sysrq triggered crash",
    "faults/test_faults.py::test_hangs_in_the_kernel hangs in the kernel",
    "faults/test_faults.py::test_leaves_an_immortal_process_behind left the guest unfit .*",
    "kernel panic: Attempted to kill init! exitcode=0x[0-9a-f]+",
    r"the guest has been silent for \d+ s",
    "faults/test_faults.py::test_leaves_a_mount_behind left the guest unfit for another test",
]


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Run:
    # A third of the time that guests are given is enough for tests that do nothing useful.
    selected = " or ".join(name for name in FAULTS if name != "floods_the_console")
    selected += " or (floods_the_console and not 50)"
    options = ["--timeout-scale", "0.3", "-k", selected]
    folder = tmp_path_factory.mktemp("faults")
    # A command line of its own: the first guest boots, and the others start from it.
    return completed(folder, WITH_LISTNS, "--append", f"nsconform.run={folder}", *options)


@pytest.mark.vm
class TestFaults:
    @pytest.mark.parametrize("test", FAULTS)
    def test_outcome(self, faults: Run, test: str) -> None:
        outcome, reason = FAULTS[test]
        result = faults.tests()[test]
        assert result.outcome == outcome
        assert re.fullmatch(reason, result.reason)

    def test_every_test_has_its_verdict(self, faults: Run) -> None:
        assert faults.tests().keys() == FAULTS.keys()
        assert {test.attempts for test in faults.tests().values()} == {1}

    def test_guest_is_used_again_unless_it_was_spoilt(self, faults: Run) -> None:
        ends = [boot.end for boot in faults.kernel().boots]
        assert len(ends) == len(BOOTS)
        for end, expected in zip(ends, BOOTS, strict=True):
            assert re.fullmatch(expected, end)

    def test_exit_status(self, faults: Run) -> None:
        assert faults.process.returncode == 1

    def test_run_directory_is_complete(self, faults: Run) -> None:
        assert faults.result().finished
        assert faults.directory.name == faults.result().id
        names = {path.name for path in faults.files.iterdir()}
        numbers = range(1, len(BOOTS) + 1)
        assert names == {"junit.xml", "ktap.txt", *(f"console-{n}.log" for n in numbers),
                         *(f"events-{n}.jsonl" for n in numbers)}  # fmt: skip
        assert len(list(ET.parse(faults.files / "junit.xml").iter("testcase"))) == len(FAULTS)  # noqa: S314

    def test_nothing_is_left(self, faults: Run) -> None:
        assert faults.leftovers() == []

    def test_no_traceback(self, faults: Run) -> None:
        assert "Traceback" not in faults.err
        assert "Traceback" not in faults.out


@pytest.mark.vm
class TestTraces:
    """What there is to read afterwards."""

    def console(self, faults: Run, test: str) -> str:
        """What the console showed from the start of a test to the end of the boot."""
        result = faults.tests()[test]
        assert result.console is not None
        text = (faults.files / f"console-{result.boot}.log").read_text(errors="replace")
        lines = text.splitlines()[result.console[0] - 1 :]
        assert lines[0].endswith(f"nsconform: start {result.id}")
        return "\n".join(lines)

    def test_of_a_panic(self, faults: Run) -> None:
        text = self.console(faults, "panics_the_kernel")
        assert "no line feed before the panic: [" in text
        assert "Kernel panic - not syncing: sysrq triggered crash" in text
        assert "sysrq_handle_crash" in faults.tests()["panics_the_kernel"].detail

    def test_of_a_hang(self, faults: Run) -> None:
        assert "--- its stack in the kernel ---" in faults.tests()["hangs_in_the_kernel"].detail
        text = self.console(faults, "hangs_in_the_kernel")
        for answer in ("Show Blocked State", "Show backtrace of all active CPUs", "Show State"):
            assert f"sysrq: {answer}" in text

    def test_of_a_silent_guest(self, faults: Run) -> None:
        assert "sysrq: Show State" in self.console(faults, "stops_the_agent")

    def test_of_the_oom_killer(self, faults: Run) -> None:
        assert "invoked oom-killer" in self.console(faults, "fills_memory")

    def test_of_a_flood(self, faults: Run) -> None:
        result = faults.tests()["floods_the_console"]
        assert result.console is not None
        assert result.console[1] - result.console[0] > (4 << 20) // 64
        assert (faults.files / f"console-{result.boot}.log").stat().st_size > 4 << 20

    def test_of_garbage(self, faults: Run) -> None:
        assert "lines of rubbish on the results channel" in faults.err

    def test_console_begins_with_the_first_line_of_the_kernel(self, faults: Run) -> None:
        lines = (faults.files / "console-1.log").read_bytes().splitlines(keepends=True)
        stamped = next(line for line in lines if line.startswith(b"[    0.000000] "))
        assert stamped.startswith(b"[    0.000000] Linux version ")
        assert stamped.endswith(b"\r\n")
        assert not stamped.endswith(b"\r\r\n")


@pytest.mark.vm
def test_warning_of_the_kernel_in_a_passing_test(tmp_path: Path) -> None:
    options = ["-k", "before or revives or after", "--append", "nsmut=68"]
    run = completed(tmp_path / "run", str(mutant()), *options)
    assert run.process.returncode == 1
    assert run.outcomes() == {"before": "pass", "revives_a_namespace": "splat", "after": "pass"}
    splat = run.tests()["revives_a_namespace"]
    assert re.match(r"WARNING: kernel/nscommon\.c:\d+ at __ns_ref_active_put", splat.reason)
    assert splat.console is not None
    lines = (run.files / "console-1.log").read_text().splitlines()
    place = slice(splat.console[0] - 1, splat.console[1])
    assert [line for line in lines[place] if splat.reason in line]
    assert run.leftovers() == []


@pytest.mark.slow
def test_flood_of_50_megabytes(tmp_path: Path) -> None:
    """QEMU's serial port takes minutes for them."""
    run = completed(tmp_path / "run", WITH_LISTNS, "-k", "before or 50 or after")
    assert run.process.returncode == 0
    assert set(run.outcomes().values()) == {"pass"}
    assert (run.files / "console-1.log").stat().st_size < LOG_LIMIT + 1000
    assert run.leftovers() == []
