# SPDX-License-Identifier: GPL-2.0-only
"""The directory of a run: run.json, and for every kernel its logs, event streams and reports."""

import json
import logging
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Self

from harness.guest.wire import Message
from harness.replay import plan_event, replay
from harness.reports.junit import junit
from harness.reports.ktap import ktap
from harness.results import KernelResult, RunResult, TestResult, from_json, to_json
from vm.cache import atomic_path
from vm.errors import ConfigError

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
_UNFINISHED = ".partial"


class EventLog:
    """events-N.jsonl while boot N goes on: a context manager, each event on disk at once."""

    def __init__(self, path: Path, plan: Message) -> None:
        self._path = path
        with _disk_errors(path):
            self._stream = path.open("xb")
        self.write(json.dumps(plan).encode())

    def write(self, line: bytes) -> None:
        """Append one line, given without its line feed. Raises ConfigError if the disk refuses."""
        with _disk_errors(self._path):
            self._stream.write(line + b"\n")
            self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _disk_errors(self._path):
            self._stream.close()


class RunDirectory:
    """The directory of a run in progress, under a temporary name until `complete`.

    It is never removed, so that a run that was cut off can be read with `load_run`. The methods
    may be called from several threads. All raise ConfigError if the disk refuses.
    """

    def __init__(
        self, results: Path, version: str, kernels: Sequence[KernelResult], seed: int = 0
    ) -> None:
        """Create it in `results`, with every selected test of `kernels` on record as not run."""
        self._lock = threading.Lock()
        self._results = results
        with _disk_errors(results):
            run_id = _reserve(results)
        self.path = results / (run_id + _UNFINISHED)
        self._run = RunResult(run_id, _now().strftime("%Y-%m-%dT%H:%M:%SZ"), "", version, seed=seed)
        self._directories = kernel_directories(kernel.spec for kernel in kernels)
        with _disk_errors(self.path):
            for name in self._directories.values():
                (self.path / name).mkdir()
        self._store(replace(self._run, kernels=tuple(kernels)))

    def kernel(self, spec: str) -> Path:
        """The directory of one kernel's files."""
        return self.path / self._directories[spec]

    def console(self, spec: str, boot: int) -> Path:
        """Where the console log of boot number `boot` belongs; nothing is there yet."""
        return self.kernel(spec) / f"console-{boot}.log"

    def event_log(self, spec: str, boot: int, tests: Iterable[TestResult]) -> EventLog:
        """Begin the event stream of boot number `boot`, in which `tests` are to be run."""
        return EventLog(self.kernel(spec) / f"events-{boot}.jsonl", plan_event(spec, tests))

    def update(self, kernel: KernelResult) -> None:
        """Put what is known of a kernel into run.json.

        To be called at the end of a boot, with its record in `kernel`: what `load_run` takes
        from the event streams are the boots without a record.
        """
        with self._lock:
            kernels = (kernel if k.spec == kernel.spec else k for k in self._run.kernels)
            self._store(replace(self._run, kernels=tuple(kernels)))

    def complete(self) -> RunResult:
        """Write the reports, give the directory its final name, and point `latest` to it."""
        self._store(replace(self._run, finished=_now().strftime("%Y-%m-%dT%H:%M:%SZ")))
        with _disk_errors(self.path):
            for kernel in self._run.kernels:
                self._write_reports(kernel)
            final = self.path.rename(self._results / self._run.id)
        self.path = final
        self._link_latest()
        return self._run

    def _store(self, run: RunResult) -> None:
        with _disk_errors(self.path), atomic_path(self.path / RUN_FILE) as temporary:
            temporary.write_text(to_json(run), encoding="utf-8")
        self._run = run

    def _write_reports(self, kernel: KernelResult) -> None:
        alone = replace(self._run, kernels=(kernel,))
        directory = self.kernel(kernel.spec)
        (directory / "ktap.txt").write_text(ktap(kernel), encoding="utf-8")
        (directory / "junit.xml").write_text(junit(alone), encoding="utf-8")

    def _link_latest(self) -> None:
        # A link cannot be replaced in place; renaming another one over it can.
        temporary = self._results / f".latest-{self._run.id}"
        try:
            temporary.symlink_to(self._run.id, target_is_directory=True)
            temporary.replace(self._results / "latest")
        except OSError as error:
            logger.warning("%s: `latest` does not point to it: %s", self.path, error.strerror)
            temporary.unlink(missing_ok=True)


def kernel_directories(specs: Iterable[str]) -> dict[str, str]:
    """The name of each kernel's directory in the run directory, from the specs of the run in
    their order: safe as a file name, and different for different specs."""
    names: dict[str, str] = {}
    for spec in specs:
        safe = re.sub(r"[^A-Za-z0-9.+~_]+", "-", spec)[-60:].strip("-.~") or "kernel"
        numbered = (f"{safe}-{n}" if n > 1 else safe for n in count(1))
        names[spec] = next(name for name in numbered if name not in {RUN_FILE, *names.values()})
    return names


def load_run(path: Path) -> RunResult:
    """Read the directory of a run, finished or cut off.

    For a run that was cut off (`finished` is empty then), the event streams of boots of which
    run.json has no record are added to what it has. Raises ConfigError if there is no run in it.
    """
    try:
        run = _stored(path)
        return run if run.finished else replace(run, kernels=tuple(_recovered(run, path)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _stored(path: Path) -> RunResult:
    if (path / RUN_FILE).exists():
        return from_json((path / RUN_FILE).read_text(errors="replace"), str(path / RUN_FILE))
    if any(path.glob("*/events-*.jsonl")):
        return RunResult(path.name.removesuffix(_UNFINISHED), "", "", "")
    raise ConfigError(f"{path}: no run in it; name a directory that `nsconform run` has written")


def _recovered(run: RunResult, path: Path) -> Iterator[KernelResult]:
    if not run.kernels:
        directories = sorted({stream.parent for stream in path.glob("*/events-*.jsonl")})
        yield from (_with_events(KernelResult(d.name), d) for d in directories)
        return
    names = kernel_directories(kernel.spec for kernel in run.kernels)
    for kernel in run.kernels:
        yield _with_events(kernel, path / names[kernel.spec])


def _with_events(kernel: KernelResult, directory: Path) -> KernelResult:
    recorded = {boot.n for boot in kernel.boots}
    names = ((path, path.stem.removeprefix("events-")) for path in directory.glob("events-*.jsonl"))
    streams = {int(number): path for path, number in names if number.isdecimal()}
    for boot in sorted(streams.keys() - recorded):
        kernel = replay(kernel, streams[boot], boot)
    return kernel


def _reserve(results: Path) -> str:
    results.mkdir(parents=True, exist_ok=True)
    while True:
        run_id = f"{_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        if (results / run_id).exists():
            continue
        try:
            (results / (run_id + _UNFINISHED)).mkdir()
        except FileExistsError:
            continue
        return run_id


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path}: cannot be written: {error.strerror};"
            " make room or name another directory with --results"
        ) from error
