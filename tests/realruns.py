# SPDX-License-Identifier: GPL-2.0-only
"""Runs of `nsconform` on real kernels, each a process of its own with a place for its files."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from harness.results import KernelResult, RunResult, TestResult
from harness.rundir import load_run

ROOT = Path(__file__).parents[1]
GUEST_TESTS = ROOT / "tests/guest"
MUTANTS = ROOT.parent / "shared/mutants"
WITH_LISTNS = "debian:newest-with-listns"
WITHOUT_LISTNS = "debian:newest-without-listns"
# For anything that has to happen, on a machine that has other things to do as well.
PATIENCE_SECONDS = 400


@dataclass(frozen=True)
class Run:
    """A run that goes on, or has ended: its process and the folder that all its files are in."""

    process: subprocess.Popen[str]
    folder: Path

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(PATIENCE_SECONDS)

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def directory(self) -> Path:
        """The run directory, complete or not."""
        (found,) = (path for path in (self.folder / "results").iterdir() if path.name != "latest")
        return found

    @property
    def files(self) -> Path:
        """The directory of the only kernel's files."""
        (found,) = (path for path in self.directory.iterdir() if path.is_dir())
        return found

    def result(self) -> RunResult:
        return load_run(self.directory)

    def kernel(self) -> KernelResult:
        (kernel,) = self.result().kernels
        return kernel

    def tests(self) -> dict[str, TestResult]:
        """Each test by the name of its function, without `test_`."""
        return {test.id.rpartition("::test_")[2]: test for test in self.kernel().tests}

    def outcomes(self) -> dict[str, str]:
        return {name: str(test.outcome) for name, test in self.tests().items()}

    def wait_for_start(self, test: str) -> None:
        """Wait until a guest has begun a test."""
        wait_until(lambda: test in self._started() or self.process.poll() is not None)
        assert test in self._started(), self.err

    def _started(self) -> list[str]:
        events = (self.folder / "results").glob("*/*/events-*.jsonl")
        lines = [line for log in events for line in log.read_text().splitlines(keepends=True)]
        said = [json.loads(line) for line in lines if line.endswith("\n")]
        return [one["test"].rpartition("::test_")[2] for one in said if one["event"] == "start"]

    def guests(self) -> list[psutil.Process]:
        """The processes of its guests: QEMU and virtme-run."""
        running = psutil.process_iter(["cmdline", "environ"])
        place = str(self.folder / "tmp")
        return [process for process in running
                if (process.info["environ"] or {}).get("TMPDIR") == place
                and "virtme" in " ".join(process.info["cmdline"] or [])
                and process.pid != self.process.pid]  # fmt: skip

    def leftovers(self) -> list[str]:
        """What a run that is over should not have left: processes, temporary files."""
        names = [" ".join(process.cmdline()) for process in self.guests()]
        return names + [str(path) for path in (self.folder / "tmp").rglob("*")]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what was waited for has not come"
        time.sleep(0.05)


@contextmanager
def running(folder: Path, kernel: str, *options: str, cache: Path | None = None) -> Iterator[Run]:
    """Run `nsconform run` on the tests that misbehave, emulated and without retries; whatever is
    left of it in the end is killed.

    Its guests are those of no other run, so that it begins with a boot, unless it is given a
    `cache` of its own.
    """
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir()
    argv = [sys.executable, "-m", "harness", "run", "--tests", str(GUEST_TESTS), "--retries", "0"]
    argv += ["--results", str(folder / "results")]
    own_cache = {"NSCONFORM_CACHE": str(cache)} if cache else {}
    argv += [*options, kernel] if "--accel" in options else ["--accel", "tcg", *options, kernel]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            # What runs us in the background may have had the signal ignored, which is inherited.
            ["env", "--default-signal=INT", *argv],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder / "tmp")} | own_cache,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
        )
    run = Run(process, folder)
    try:
        yield run
    finally:
        process.kill()
        process.wait()
        for guest in run.guests():
            guest.kill()


def completed(folder: Path, kernel: str, *options: str, cache: Path | None = None) -> Run:
    """Run `nsconform run` as `running` does, to its end."""
    with running(folder, kernel, *options, cache=cache) as run:
        run.wait()
    return run


def mutant() -> Path:
    """A kernel with bugs to switch on that logs warnings; skips where it is not at hand."""
    image = MUTANTS / "bzImage-debug"
    if not image.exists():
        pytest.skip(f"no kernel with bugs to switch on: {image} is not there")
    return image
