# SPDX-License-Identifier: GPL-2.0-only
"""A run: some suites on some kernels, one after the other, and the directory that keeps it all."""

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.collect import Collection
from harness.exploration import Exploration
from harness.payload import PACKAGES, agent_files
from harness.plan import Selection, select
from harness.progress import Progress
from harness.results import KernelResult, RunResult, TestResult
from harness.rundir import RunDirectory
from harness.session import Job, Session
from vm import image, kernels, pruning, qemu
from vm.accel import Accel, Acceleration
from vm.kernels import Kernel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to boot and how often to run; the defaults are those of the command line."""

    accel: str = "auto"
    cpus: int = 2
    memory: str = "1G"
    append: tuple[str, ...] = ()
    repeat: int = 1
    retries: int = 1
    timeout_scale: float = 1.0
    snapshot: bool = True
    exploration: Exploration = field(default_factory=Exploration)


@dataclass(frozen=True)
class Request:
    """What the user wants: kernel specs, tests, settings, and where the results go."""

    kernels: tuple[str, ...]
    selection: Selection = field(default_factory=Selection)
    settings: Settings = field(default_factory=Settings)
    results: Path = Path("results")


@dataclass(frozen=True)
class Report:
    """What came of a request; `interrupted` if the user ended it early."""

    run: RunResult
    directory: Path
    interrupted: bool = False


def execute(request: Request, progress: Progress) -> Report:
    """Run the tests on every kernel and return the results, which are then complete on disk.

    KeyboardInterrupt ends the run early with what there is. Raises ConfigError for a request that
    cannot be served, before anything is booted, and BootError when KVM is demanded and absent.
    """
    # A limit that is no size is found out before anything is done, not in the end.
    pruning.limit()
    collection, tests = select(request.selection)
    program = qemu.find()
    acceleration = Acceleration(request.settings.accel, str(program))
    resolved = [kernels.resolve(spec) for spec in dict.fromkeys(request.kernels)]
    guest = image.build(agent_files(), PACKAGES)
    directory = RunDirectory(
        request.results,
        importlib.metadata.version("nsconform"),
        [_planned(kernel, tests) for kernel in resolved],
        request.settings.exploration.seed,
    )
    if acceleration.current().accel is Accel.TCG and (caution := qemu.tcg_caution(program)):
        progress.note("QEMU", caution.warning)
    jobs = [
        _job(kernel, collection, tests, guest, program, request.settings) for kernel in resolved
    ]
    interrupted = _run_jobs(jobs, acceleration, directory, progress)
    pruning.keep_within_limit()
    return Report(directory.complete(), directory.path, interrupted)


def _run_jobs(
    jobs: Sequence[Job], acceleration: Acceleration, directory: RunDirectory, progress: Progress
) -> bool:
    for job in jobs:
        session = Session(job, acceleration, directory, progress)
        try:
            session.run()
        except KeyboardInterrupt:
            progress.note(job.kernel.spec, "interrupted")
            return True
        finally:
            directory.update(session.result())
    return False


def _planned(kernel: Kernel, tests: tuple[TestResult, ...]) -> KernelResult:
    return KernelResult(kernel.spec, kernel.release, kernel.arch, kernel.sha256, tests=tests)


def _job(
    kernel: Kernel,
    collection: Collection,
    tests: tuple[TestResult, ...],
    guest: image.GuestImage,
    program: qemu.Qemu,
    settings: Settings,
) -> Job:
    return Job(
        kernel,
        collection,
        tests,
        guest,
        program,
        cpus=settings.cpus,
        memory=settings.memory,
        append=settings.append,
        retries=settings.retries,
        repeat=settings.repeat,
        timeout_scale=settings.timeout_scale,
        snapshot=settings.snapshot,
        exploration=settings.exploration,
    )
