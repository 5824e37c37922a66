# SPDX-License-Identifier: GPL-2.0-only
"""One kernel: its tests, in as many boots as it takes to give each of them a verdict."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness import boot as booting
from harness.boot import Boot, Ending, Observer
from harness.events import Finish
from harness.progress import Progress
from harness.replay import attempt
from harness.reports.text import number
from harness.results import BootRecord, KernelResult, Outcome, TestResult, merge
from harness.rundir import RunDirectory
from vm.accel import Accel, Acceleration
from vm.errors import BootError
from vm.image import GuestImage
from vm.kernels import Kernel
from vm.machine import MachineSpec
from vm.qemu import Qemu, usable_cpus

logger = logging.getLogger(__name__)

# Boots in a row that bring no verdict at all before the kernel is given up.
_FRUITLESS_BOOTS = 2


@dataclass(frozen=True)
class Job:
    """A kernel and how to test it. `retries` and `repeat` count rounds of tests."""

    kernel: Kernel
    tests: tuple[TestResult, ...]
    image: GuestImage
    qemu: Qemu
    cpus: int = 2
    memory: str = "1G"
    append: tuple[str, ...] = ()
    retries: int = 1
    repeat: int = 1
    timeout_scale: float = 1.0


class Session(Observer):
    """Runs a job; `run` is to be called once."""

    def __init__(
        self, job: Job, acceleration: Acceleration, directory: RunDirectory, progress: Progress
    ) -> None:
        self._job = job
        self._acceleration = acceleration
        self._directory = directory
        self._progress = progress
        self._spec = job.kernel.spec
        self._results = {test.id: test for test in job.tests}
        self._boots: list[BootRecord] = []
        self._pending: dict[str, None] = {}
        self._fruitless = 0
        self._given_up = ""
        self._first_test: float | None = None
        self._about = KernelResult(
            self._spec, job.kernel.release, job.kernel.arch, job.kernel.sha256, qemu=str(job.qemu)
        )

    def run(self) -> KernelResult:
        """Test the kernel and return all that is known of it then."""
        self._progress.kernel_started(self._spec, len(self._results))
        for repetition in range(self._job.repeat):
            self._round(list(self._results), f"repetition {repetition + 1}" if repetition else "")
        for _ in range(self._job.retries):
            failures = [test.id for test in self._results.values() if test.failed]
            self._round(failures, f"retry of {number(len(failures), 'failure')}")
        result = self.result()
        self._progress.kernel_finished(self._spec, result)
        return result

    def result(self) -> KernelResult:
        """Return what is known so far."""
        tests = tuple(self._results.values())
        return replace(self._about, boots=tuple(self._boots), tests=tests)

    def _round(self, tests: Sequence[str], why: str) -> None:
        """Run each of the tests once, in a fresh boot, and in more when one does not survive."""
        if self._given_up:
            return
        self._pending = dict.fromkeys(tests)
        while self._pending and not self._given_up:
            before = len(self._pending)
            self._boot(why)
            self._fruitless = 0 if len(self._pending) < before else self._fruitless + 1
            if self._fruitless == _FRUITLESS_BOOTS:
                self._given_up = self._boots[-1].end
            why = f"resume after: {self._boots[-1].end}"
        if self._given_up:
            self._explain()

    def _explain(self) -> None:
        self._progress.note(self._spec, f"no verdict: {self._given_up}")
        for test in self._pending:
            known = self._results[test]
            if known.outcome is Outcome.NOTRUN:
                self._results[test] = replace(known, reason=self._given_up)

    def _boot(self, why: str) -> None:
        number = len(self._boots) + 1
        choice = self._acceleration.current()
        self._progress.booting(self._spec, number, choice.accel, why)
        self._about = replace(
            self._about,
            accel=choice.accel,
            accel_reason=choice.reason,
            cpus=self._cpus(choice.accel),
        )
        self._first_test = None
        console = self._directory.console(self._spec, number)
        tests = [self._results[test] for test in self._pending]
        self._started = time.monotonic()
        with (
            self._directory.event_log(self._spec, number, tests) as log,
            booting.boot(self._machine(choice.accel), console, log.write) as guest,
        ):
            try:
                ending = self._live(guest, choice.accel, provisional=choice.provisional)
            except KeyboardInterrupt:
                self._end(guest, number, Ending("interrupted"))
                raise
        self._end(guest, number, ending)

    def _live(self, guest: Boot, accel: Accel, *, provisional: bool) -> Ending:
        scale = self._job.timeout_scale
        try:
            booting.wait_until_ready(guest, accel, provisional=provisional, scale=scale)
        except BootError as error:
            self._show(guest, str(error))
            another_way = self._acceleration.reject(accel, str(error))
            if provisional and not another_way:
                self._given_up = f"--accel kvm: {error}; use --accel auto or tcg"
            return Ending(str(error))
        self._acceleration.confirm(accel)
        if guest.hello is not None:
            self._about = replace(
                self._about, release=guest.hello.release, features=guest.hello.features
            )
        return booting.run(guest, list(self._pending), self, scale)

    def _show(self, guest: Boot, why: str) -> None:
        seen = "the end of its console:" if guest.last_lines else "its console is empty"
        self._progress.note(self._spec, f"{why}; {seen}\n{guest.last_lines}".rstrip())

    def _end(self, guest: Boot, n: int, ending: Ending) -> None:
        """Record a boot that is over, and the test that it was over with."""
        if ending.victim:
            victim = self._results[ending.victim]
            lost = Finish(victim.id, ending.outcome, 0.0, ending.text, ending.detail)
            self._judge(lost)
        self._locate(guest, n)
        for note in guest.notes:
            self._progress.note(self._spec, note)
        if lines := guest.channel.rubbish + guest.strays:
            text = f"boot {n}: {number(lines, 'line')} of rubbish on the results channel"
            self._progress.note(self._spec, text)
        name = self._directory.console(self._spec, n).name
        self._boots.append(BootRecord(n, name, self._first_test, ending.text))
        self._directory.update(self.result())

    def _locate(self, guest: Boot, n: int) -> None:
        """Note where each test of a boot is in its console, which comes later than the events."""
        for test in self._results.values():
            if test.boot == n:
                lines = guest.machine.console.lines_of(test.id)
                self._results[test.id] = replace(test, console=lines)

    def started(self, boot: Boot, test: str) -> None:  # noqa: ARG002 - the observer's signature
        """Note that a test begins."""
        if self._first_test is None:
            self._first_test = round(time.monotonic() - self._started, 2)
        self._progress.test_started(self._spec, test)

    def finished(self, boot: Boot, event: Finish) -> None:  # noqa: ARG002 - as above
        """Note what a test found."""
        self._judge(event)

    def _judge(self, event: Finish) -> None:
        known = self._results[event.test]
        del self._pending[event.test]
        number = len(self._boots) + 1
        self._results[event.test] = merge(known, attempt(known, event, number))
        self._progress.test_finished(self._spec, self._results[event.test])

    def _cpus(self, accel: Accel) -> int:
        return usable_cpus(self._job.qemu, accel, self._job.cpus)

    def _machine(self, accel: Accel) -> MachineSpec:
        job = self._job
        return MachineSpec(
            kernel=job.kernel.image,
            image=job.image.path,
            qemu=job.qemu.path,
            accel=accel,
            cpus=self._cpus(accel),
            memory=job.memory,
            append=job.append,
        )
