# SPDX-License-Identifier: GPL-2.0-only
"""Snapshots of real guests: the same verdicts from them, and from a boot where one is of no use."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.realruns import GUEST_TESTS, WITH_LISTNS, Run, completed, running, wait_until
from vm import kernels

pytestmark = pytest.mark.vm

LOOK = "sees_time_and_randomness"
SECONDS = 10
WAITING = {
    LOOK: ("pass", ""),
    "murders": ("pass", ""),
    "halts": ("pass", ""),
    "interrupts": ("pass", ""),
    "tells_tales": ("fail", "Failed: first"),
    "tells_other_tales": ("fail", "Failed: second"),
    "abandons_a_child": ("fail", r"left behind: processes \['[^,]+ \(pid \d+\)'\]"),
    "loses_time": ("timeout", r"no end after \d+ s"),
    **{f"gets_over_{what}": ("pass", "") for what in
       ("murder", "halt", "interrupt", "abandon", "loss")},
}  # fmt: skip


@pytest.fixture(scope="module")
def kernel() -> str:
    return str(kernels.resolve(WITH_LISTNS).image)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory, kernel: str, cache: Path) -> Run:
    """The first run in a cache; all others may go on from its snapshot."""
    return completed(tmp_path_factory.mktemp("cold"), kernel, "-k", "waiting", cache=cache)


@pytest.fixture(scope="module")
def warm(cold: Run, tmp_path_factory: pytest.TempPathFactory, kernel: str, cache: Path) -> Run:
    assert cold.process.returncode == 1
    return completed(tmp_path_factory.mktemp("warm"), kernel, "-k", "waiting", cache=cache)


def starts(run: Run) -> list[str]:
    return [boot.start for boot in run.kernel().boots]


def heavy(suites: Path, size: int) -> Path:
    """Make a copy of the suites that is larger by what does not get smaller when it is packed."""
    shutil.copytree(GUEST_TESTS, suites)
    (suites / "waiting/ballast.py").write_text(f'"""{os.urandom(size // 2).hex()}"""\n')
    return suites


def edit(suites: Path) -> Path:
    """Have a test see another mark than that of the suites that the snapshot was made with."""
    file = suites / "waiting/test_waiting.py"
    file.write_text(file.read_text().replace('"original"', '"new text"'))
    return suites


def snapshots(cache: Path) -> list[Path]:
    return list((cache / "snapshots").glob("[!.]*"))


def unfinished(cache: Path) -> list[Path]:
    """What writers of snapshots have not finished, but for their locks."""
    return [file for file in (cache / "snapshots").glob(".*") if file.suffix != ".lock"]


def check_reports(reports: Mapping[str, tuple[str, str, str]]) -> None:
    """Compare outcome, reason and detail of each test with what they have to be."""
    assert reports.keys() == WAITING.keys()
    for name, (outcome, expected) in WAITING.items():
        found, reason, _ = reports[name]
        assert (name, found) == (name, outcome)
        assert re.fullmatch(expected, reason)
    for test, first, other in (
        ("tells_tales", "first", "second"),
        ("tells_other_tales", "second", "first"),
    ):
        assert f"tales of the {first}\n" in reports[test][2]
        assert f"tales of the {other}" not in reports[test][2].partition("--- printed ---")[2]


def check_verdicts(run: Run) -> None:
    check_reports(
        {name: (test.outcome, test.reason, test.detail) for name, test in run.tests().items()}
    )
    assert [boot.end for boot in run.kernel().boots] == ["clean"]
    assert run.leftovers() == []
    assert "Traceback" not in run.err


class TestVerdicts:
    """What tests find is the same, and what they do to the process that waits does no harm."""

    def test_of_a_boot(self, cold: Run, cache: Path) -> None:
        check_verdicts(cold)
        assert starts(cold) == ["cold"]
        assert len(snapshots(cache)) == 1
        assert not unfinished(cache)

    def test_of_a_guest_that_was_saved(self, cold: Run, warm: Run) -> None:
        check_verdicts(warm)
        assert starts(warm) == ["restored"]
        assert warm.err.count("snapshot") == cold.err.count("snapshot") == 0
        assert warm.kernel().features == cold.kernel().features
        assert warm.kernel().release == cold.kernel().release

    def test_events_tell_the_whole_story(self, warm: Run) -> None:
        first, second = (warm.files / "events-1.jsonl").read_text().splitlines()[:2]
        assert '"plan"' in first
        assert '"hello"' in second


@pytest.mark.usefixtures("cold")
class TestWhatIsNew:
    """Time, randomness and tests are those of the run, however many, not of the snapshot."""

    @pytest.fixture(scope="class")
    @classmethod
    def edited(
        cls, tmp_path_factory: pytest.TempPathFactory, kernel: str, cache: Path
    ) -> tuple[Run, float, float]:
        folder = tmp_path_factory.mktemp("edited")
        suites = edit(heavy(folder / "suites", 6 << 20))
        before = time.time()
        run = completed(folder / "run", kernel, "--tests", str(suites), "-k", LOOK, cache=cache)
        return run, before, time.time()

    def test_time(self, edited: tuple[Run, float, float]) -> None:
        run, before, after = edited
        assert starts(run) == ["restored"]
        seen = run.tests()[LOOK].observations["time"]
        assert isinstance(seen, float)
        assert before - 1 < seen < after + 1

    @pytest.mark.parametrize("source", ["urandom", "random"])
    def test_randomness(
        self, cold: Run, warm: Run, edited: tuple[Run, float, float], source: str
    ) -> None:
        runs = (cold, warm, edited[0])
        assert len({run.tests()[LOOK].observations[source] for run in runs}) == len(runs)

    def test_edited_file(self, warm: Run, edited: tuple[Run, float, float]) -> None:
        marks = [run.tests()[LOOK].observations["mark"] for run in (warm, edited[0])]
        assert marks == ["original", "new text"]


@pytest.mark.usefixtures("cold")
def test_guest_with_one_cpu(tmp_path: Path, kernel: str, cache: Path) -> None:
    """Its snapshot is another one; in the place of the first it is dropped."""
    (two_cpus,) = snapshots(cache)
    options = ("--cpus", "1", "-k", "waiting")
    runs = [completed(tmp_path / name, kernel, *options, cache=cache) for name in "ab"]
    for run, start in zip(runs, ("cold", "restored"), strict=True):
        check_verdicts(run)
        assert starts(run) == [start]
    (one_cpu,) = set(snapshots(cache)) - {two_cpus}
    one_cpu.replace(two_cpus)
    run = completed(tmp_path / "c", kernel, "-k", LOOK, cache=cache)
    assert run.outcomes() == {LOOK: "pass"}
    assert starts(run) == ["restored", "cold"]
    assert "snapshot dropped: QEMU ended before the guest was ready" in run.err
    assert run.process.returncode == 0
    assert snapshots(cache) == [two_cpus]


@pytest.mark.usefixtures("cold")
class TestPanic:
    def test_costs_little(self, tmp_path: Path, kernel: str, cache: Path) -> None:
        """Measured rather than judged: other work on the machine would decide."""
        seconds = []
        for selected in ("many and not dies", "many"):
            started = time.monotonic()
            run = completed(tmp_path / selected[-4:], kernel, "-k", selected, cache=cache)
            seconds.append(time.monotonic() - started)
        assert starts(run) == ["restored", "restored"]
        outcomes = run.outcomes()
        assert outcomes.pop("dies_among_many") == "crash"
        assert len(outcomes) == 50
        assert set(outcomes.values()) == {"pass"}
        assert len({test.id for test in run.tests().values() if test.boot == 1}) == 26
        print(f"50 tests: {seconds[0]:.2f} s; with a panic among them: {seconds[1]:.2f} s")


@pytest.mark.usefixtures("cold")
class TestDamage:
    @pytest.mark.parametrize("damage", ["flipped byte", "cut off"])
    def test_of_the_file(self, tmp_path: Path, kernel: str, cache: Path, damage: str) -> None:
        (file,) = snapshots(cache)
        size = file.stat().st_size
        if damage == "cut off":
            os.truncate(file, size - 1000)
        else:
            with file.open("r+b") as stream:
                stream.seek(size // 2)
                (byte,) = stream.read(1)
                stream.seek(size // 2)
                stream.write(bytes([byte ^ 1]))
        run = completed(tmp_path / "run", kernel, "-k", LOOK, cache=cache)
        assert (run.process.returncode, run.outcomes()) == (0, {LOOK: "pass"})
        assert starts(run) == ["cold"]
        assert f"snapshot dropped: the snapshot {file.name} is of no use: " in run.err
        assert snapshots(cache) == [file]

    def test_qemu_of_another_version(
        self, tmp_path: Path, kernel: str, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = shutil.which("qemu-system-x86_64")
        other = tmp_path / "qemu-system-x86_64"
        other.write_text(
            '#!/bin/sh\n[ "$1" != --version ] || exec echo "QEMU emulator version 10.0.1"\n'
            f'exec {real} "$@"\n'
        )
        other.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        before = snapshots(cache)
        run = completed(tmp_path / "run", kernel, "-k", LOOK, cache=cache)
        assert (run.process.returncode, run.outcomes()) == (0, {LOOK: "pass"})
        assert starts(run) == ["cold"]
        (added,) = set(snapshots(cache)) - set(before)
        added.unlink()


@pytest.mark.usefixtures("cold")
class TestSaving:
    def test_run_that_is_killed_meanwhile(self, tmp_path: Path, kernel: str, cache: Path) -> None:
        (file,) = snapshots(cache)
        file.unlink()
        with running(tmp_path / "killed", kernel, "-k", LOOK, cache=cache) as run:
            wait_until(lambda: any(part.stat().st_size for part in unfinished(cache)))
            os.killpg(run.process.pid, signal.SIGKILL)
            run.wait()
            deadline = time.monotonic() + SECONDS
            while run.guests() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert run.leftovers() == []
        assert snapshots(cache) == []
        assert unfinished(cache)
        after = completed(tmp_path / "after", kernel, "-k", LOOK, cache=cache)
        assert (after.process.returncode, after.outcomes()) == (0, {LOOK: "pass"})
        assert starts(after) == ["cold"]
        assert snapshots(cache) == [file]
        assert not unfinished(cache)

    def test_four_at_once(self, tmp_path: Path, kernel: str, cache: Path) -> None:
        (file,) = snapshots(cache)
        file.unlink()
        with ExitStack() as stack:
            runs = [
                stack.enter_context(running(tmp_path / name, kernel, "-k", LOOK, cache=cache))
                for name in "abcd"
            ]
            assert [run.wait() for run in runs] == [0] * 4
        assert {start for run in runs for start in starts(run)} <= {"cold", "restored"}
        for run in runs:
            assert run.outcomes() == {LOOK: "pass"}
            assert run.leftovers() == []
            assert "snapshot" not in run.err
        assert snapshots(cache) == [file]
        assert not unfinished(cache)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
    def test_disk_that_is_full(self, small_disk: Path, tmp_path: Path, kernel: str) -> None:
        run = completed(tmp_path / "run", kernel, "-k", LOOK, cache=small_disk)
        assert (run.process.returncode, run.outcomes()) == (0, {LOOK: "pass"})
        assert "no snapshot is kept: [Errno 28] No space left on device" in run.err
        assert snapshots(small_disk) == unfinished(small_disk) == []

    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        """Room for a guest image, and for half a snapshot."""
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120M", "none", str(disk)], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)


class TestSerialPort:
    """Guests that cannot read the memory that they share with the harness."""

    @pytest.mark.parametrize("option", ["pci=off", "lockdown=integrity"])
    def test_suites_come_another_way(self, tmp_path: Path, kernel: str, option: str) -> None:
        suites = heavy(tmp_path / "suites", 1 << 19)
        options = ("--tests", str(suites), "-k", LOOK, "--append", option, "--no-snapshot")
        before = time.time()
        run = completed(tmp_path / "run", kernel, *options)
        assert (run.process.returncode, run.outcomes()) == (0, {LOOK: "pass"})
        assert '"mailbox": false' in (run.files / "events-1.jsonl").read_text()
        seen = run.tests()[LOOK].observations["time"]
        assert isinstance(seen, float)
        assert before < seen < time.time() + 1

    def test_edited_file(self, tmp_path: Path, kernel: str) -> None:
        """The guest was saved with other suites, which had come the same way."""
        suites = tmp_path / "suites"
        shutil.copytree(GUEST_TESTS, suites)
        options = ("--tests", str(suites), "-k", LOOK, "--append", "pci=off")
        first = completed(tmp_path / "first", kernel, *options, cache=tmp_path / "cache")
        edit(suites)
        second = completed(tmp_path / "second", kernel, *options, cache=tmp_path / "cache")
        assert [starts(run) for run in (first, second)] == [["cold"], ["restored"]]
        marks = [run.tests()[LOOK].observations["mark"] for run in (first, second)]
        assert marks == ["original", "new text"]


def test_no_process_is_left() -> None:
    """After all that."""
    ours = {child.pid for child in psutil.Process().children(recursive=True)}
    assert not ours
