# SPDX-License-Identifier: GPL-2.0-only
"""How fast a verdict comes: python -m bench [KERNEL]. Exit status 1 if a limit is exceeded.

Times on emulated machines vary by half from one minute to the next, so that only ratios within
one round mean something, and the median of several rounds is what counts.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import bare
from vm import kernels

_ROUNDS = 3
_ONE_TEST = ("-k", "test_initial_namespaces_have_fixed_ids")
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Round:
    """Runs beside one bare boot: times in seconds until the first test of a guest that booted and
    was saved, and of one from a snapshot, and of a run of one test in all. Memory in MB."""

    bare: float
    cold: float
    restored: float
    one_test: float
    tests: int
    in_guest: float
    memory: float

    @property
    def rate(self) -> float:
        """Tests a second inside the guest, from the first start to the last finish."""
        return self.tests / self.in_guest


@dataclass(frozen=True)
class Limit:
    """A measured number and what it may be at most (or at least, if `floor`)."""

    what: str
    value: float
    limit: float
    floor: bool = False

    @property
    def kept(self) -> bool:
        """Whether the number is on the right side."""
        return self.value >= self.limit if self.floor else self.value <= self.limit


def main(spec: str = "debian:newest") -> int:
    """Measure, print, return the exit status."""
    kernel = kernels.resolve(spec)
    with tempfile.TemporaryDirectory(prefix="nsconform-bench-") as folder:
        _measure_run(spec, Path(folder, "warm-up"), *_ONE_TEST)
        rounds = [_round(kernel, spec, Path(folder, str(n))) for n in range(_ROUNDS)]
    for one in rounds:
        print(
            f"bare boot {one.bare:.1f} s; first test after {one.cold:.1f} s cold, "
            f"{one.restored:.2f} s restored; a run of one test {one.one_test:.1f} s; "
            f"{one.tests} tests in {one.in_guest:.1f} s; harness {one.memory:.0f} MB"
        )
    limits = [
        Limit("first test cold, in bare boots", _median(r.cold / r.bare for r in rounds), 1.6),
        Limit("restored, in bare boots", _median(r.restored / r.bare for r in rounds), 0.35),
        Limit("a run of one test, seconds", _median(r.one_test for r in rounds), 3.0),
        Limit("tests a second in the guest", _median(r.rate for r in rounds), 12, True),
        Limit("memory of the harness, MB", max(r.memory for r in rounds), 150),
    ]
    for limit in limits:
        bound = "at least" if limit.floor else "at most"
        verdict = "ok" if limit.kept else "EXCEEDED"
        print(f"{limit.what:30} {limit.value:7.2f}  ({bound} {limit.limit:g}) {verdict}")
    return 0 if all(limit.kept for limit in limits) else 1


def _median(numbers: Iterable[float]) -> float:
    return statistics.median(numbers)


def _round(kernel: kernels.Kernel, spec: str, folder: Path) -> Round:
    bare_seconds = bare.seconds_to_boot(kernel.image, folder / "bare")
    # A word of its own on the command line: no guest like that was ever saved.
    fresh = ("--append", f"nsconform.bench={time.time_ns()}")
    cold, _ = _measure_run(spec, folder / "cold", *_ONE_TEST, *fresh)
    started = time.monotonic()
    _measure_run(spec, folder / "one", *_ONE_TEST, *fresh)
    one_test = time.monotonic() - started
    whole = folder / "whole"
    restored, memory = _measure_run(spec, whole, *fresh)
    events = [json.loads(line) for line in _events(whole).read_text().splitlines()]
    finished = [event for event in events if event["event"] == "finish"]
    in_guest = _guest_seconds(whole)
    return Round(bare_seconds, cold, restored, one_test, len(finished), in_guest, memory)


def _measure_run(spec: str, folder: Path, *selection: str) -> tuple[float, float]:
    """Run the suites; return seconds to the first test and the peak memory of all but QEMU."""
    argv = [sys.executable, "-m", "harness", "run", spec, "--accel", "tcg", "--retries", "0"]
    argv += selection
    started = time.monotonic()
    with subprocess.Popen(
        [*argv, "--results", str(folder / "results")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        memory = _Memory(process.pid)
        seconds = _until_first_start(folder, process) - started
        process.wait()
    return seconds, memory.stop()


def _until_first_start(folder: Path, process: subprocess.Popen[bytes]) -> float:
    while process.poll() is None:
        if any('"start"' in path.read_text() for path in folder.rglob("events-1.jsonl")):
            return time.monotonic()
        time.sleep(_POLL_SECONDS)
    raise SystemExit("bench: the run ended before its first test")


def _events(folder: Path) -> Path:
    return next(folder.rglob("results/*Z-*/*/events-1.jsonl"))


def _guest_seconds(folder: Path) -> float:
    """Return the time between the first and the last mark in the guest's own log."""
    console = _events(folder).with_name("console-1.log").read_text(errors="replace")
    marks = [line for line in console.splitlines() if "nsconform: " in line]
    times = [float(line.split("]")[0].strip("[ ")) for line in marks]
    return times[-1] - times[0]


class _Memory:
    """Watches the resident memory of a process and its children, QEMU left out."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """Return the peak in MB."""
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._stopped.wait(0.2):
            self._peak = max(self._peak, sum(map(_megabytes, self._family())))

    def _family(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _megabytes(process: psutil.Process) -> float:
    try:
        if process.name().startswith("qemu-system"):
            return 0.0
        return float(process.memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
