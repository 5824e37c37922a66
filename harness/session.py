# SPDX-License-Identifier: GPL-2.0-only
"""One kernel: its tests, in as many boots as it takes to give each of them a verdict."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from harness import boot as booting
from harness.boot import Boot, Ending, Observer
from harness.collect import Collection
from harness.events import Finish
from harness.exploration import Exploration
from harness.guest.archive import pack
from harness.payload import suite_files
from harness.progress import Progress
from harness.replay import attempt
from harness.reports.text import number
from harness.results import BootRecord, KernelResult, Outcome, TestResult, merge
from harness.rundir import RunDirectory
from harness.snapshots import Snapshot
from vm import snapshots
from vm.accel import Accel, Acceleration, Choice
from vm.command import MachineSpec
from vm.errors import BootError
from vm.image import GuestImage
from vm.kernels import Kernel
from vm.qemu import Qemu, can_save, usable_cpus
from vm.uncompressed import boot_image

logger = logging.getLogger(__name__)

# Boots in a row that bring no verdict at all before the kernel is given up.
_FRUITLESS_BOOTS = 2


@dataclass(frozen=True)
class Job:
    """A kernel and how to test it. `retries` and `repeat` count rounds of tests."""

    kernel: Kernel
    collection: Collection
    tests: tuple[TestResult, ...]
    image: GuestImage
    qemu: Qemu
    cpus: int = 2
    memory: str = "1G"
    append: tuple[str, ...] = ()
    retries: int = 1
    repeat: int = 1
    timeout_scale: float = 1.0
    snapshot: bool = True
    exploration: Exploration = field(default_factory=Exploration)

    def archive(self, tests: Sequence[str]) -> bytes:
        """Return what the guest needs for the tests with these ids."""
        files = suite_files(self.collection, tests)
        return pack({path: (entry.data, entry.mtime) for path, entry in files.items()})

    def snapshot_of(self, spec: MachineSpec, note: Callable[[str], None]) -> Snapshot | None:
        """Return the snapshot of the guests that `spec` shapes; None if there are to be none."""
        if not self.snapshot or not can_save(self.qemu):
            return None
        return Snapshot(
            snapshots.key(spec, self.kernel.sha256, self.image.key, str(self.qemu)), note
        )


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
        self._snapshot: Snapshot | None = None
        self._unsavable = False
        self._about = KernelResult(
            self._spec, job.kernel.release, job.kernel.arch, job.kernel.sha256, qemu=str(job.qemu)
        )

    def run(self) -> KernelResult:
        """Test the kernel and return all that is known of it then."""
        self._progress.kernel_started(self._spec, len(self._results))
        for repetition in range(self._job.repeat):
            self._round(list(self._results), f"repetition {repetition + 1}" if repetition else "")
        for retry in range(1, self._job.retries + 1):
            failures = [test.id for test in self._results.values() if test.failed]
            # What stands in the end must not depend on what a snapshot brought with it.
            cold = retry == self._job.retries
            self._round(failures, f"retry of {number(len(failures), 'failure')}", cold=cold)
        result = self.result()
        self._progress.kernel_finished(self._spec, result)
        return result

    def result(self) -> KernelResult:
        """Return what is known so far."""
        tests = tuple(self._results.values())
        return replace(self._about, boots=tuple(self._boots), tests=tests)

    def _round(self, tests: Sequence[str], why: str, *, cold: bool = False) -> None:
        """Run each of the tests once, in a fresh guest, and in more when one does not survive."""
        if self._given_up:
            return
        self._pending = dict.fromkeys(tests)
        barren = False
        while self._pending and not self._given_up:
            due = len(self._pending)
            # After a boot that brought nothing the next is cold: that tells who is at fault.
            restored = self._boot(why, cold=cold or barren)
            barren = len(self._pending) == due
            if not barren:
                self._fruitless = 0
            elif not restored:
                self._fruitless += 1
            if self._fruitless == _FRUITLESS_BOOTS:
                self._given_up = self._boots[-1].end
            why = f"resume after: {self._boots[-1].end}"
        if self._given_up:
            self._explain()

    def _explain(self) -> None:
        self._note(f"no verdict: {self._given_up}")
        for test in self._pending:
            known = self._results[test]
            if known.outcome is Outcome.NOTRUN:
                self._results[test] = replace(known, reason=self._given_up)

    def _boot(self, why: str, *, cold: bool) -> bool:
        """Run what is pending in one guest; True if that came from a snapshot, in which case it
        is no fault of the kernel's if it was of no use."""
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
        self._started = time.monotonic()
        with ExitStack() as stack:
            guest = self._guest(number, choice, stack, cold=cold)
            try:
                ending = self._live(guest, choice)
            except KeyboardInterrupt:
                self._end(guest, number, Ending("interrupted"))
                raise
        self._end(guest, number, ending)
        return guest.restored

    def _guest(self, number: int, choice: Choice, stack: ExitStack, *, cold: bool) -> Boot:
        """Start a guest, from a snapshot if that is allowed and there is one."""
        spec = self._machine(choice.accel)
        tests = [self._results[test] for test in self._pending]
        self._snapshot = self._job.snapshot_of(spec, self._note)
        asleep = None
        if self._snapshot and not cold and not choice.provisional:
            asleep = self._snapshot.thaw(stack)
        if asleep is None:
            # One that goes on has its kernel in memory; QEMU takes half a second to put it there.
            spec = replace(spec, kernel=boot_image(self._job.kernel, choice.accel))
        log = stack.enter_context(self._directory.event_log(self._spec, number, tests))
        console = self._directory.console(self._spec, number)
        return stack.enter_context(booting.boot(spec, console, log.write, asleep))

    def _live(self, guest: Boot, choice: Choice) -> Ending:
        """Follow a guest from its start to its end."""
        try:
            if not guest.restored:
                booting.wait_for_agent(guest, choice, self._job.timeout_scale)
                self._acceleration.confirm(choice.accel)
                if not self._job.kernel.is_unchanged():
                    # Its verdicts, and its snapshot, would go by the name of another kernel.
                    self._given_up = f"{self._job.kernel.image} has changed since the run began"
                    return Ending(self._given_up)
            return self._work(guest)
        except BootError as error:
            self._show(guest, str(error))
            if guest.restored:
                self._drop(str(error))
            else:
                another_way = self._acceleration.reject(choice.accel, str(error))
                if choice.provisional and not another_way:
                    self._given_up = f"--accel kvm: {error}; use --accel auto or tcg"
            return Ending(str(error))

    @contextmanager
    def _kept(self, guest: Boot) -> Iterator[None]:
        """Save a guest that is ready, unless that has failed before: a QEMU that broke down over
        it would do so in every boot."""
        if self._snapshot is None or self._unsavable:
            yield
            return
        try:
            with self._snapshot.kept(guest):
                yield
        finally:
            self._unsavable = self._snapshot.failed

    def _drop(self, why: str) -> None:
        if self._snapshot:
            self._snapshot.drop(why)

    def _work(self, guest: Boot) -> Ending:
        """Run what is pending in a guest whose agent has said hello."""
        assert guest.hello is not None
        pending = list(self._pending)
        features = booting.load(guest, self._job.archive(pending), self._job.timeout_scale)
        self._about = replace(self._about, release=guest.hello.release, features=features)
        with nullcontext() if guest.restored else self._kept(guest):
            return booting.run(guest, pending, self, self._job.timeout_scale, self._job.exploration)

    def _note(self, text: str) -> None:
        self._progress.note(self._spec, text)

    def _show(self, guest: Boot, why: str) -> None:
        seen = "the end of its console:" if guest.last_lines else "its console is empty"
        self._note(f"{why}; {seen}\n{guest.last_lines}".rstrip())

    def _end(self, guest: Boot, n: int, ending: Ending) -> None:
        """Record a boot that is over, and the test that it was over with."""
        if ending.victim:
            if ending.victim not in self._pending:
                # The verdict that it had got came too early.
                self._results[ending.victim] = self._known_before
            self._judge(Finish(ending.victim, ending.outcome, 0.0, ending.text, ending.detail))
        self._locate(guest, n)
        for note in guest.notes:
            self._note(note)
        if lines := guest.channel.rubbish + guest.strays:
            text = f"boot {n}: {number(lines, 'line')} of rubbish on the results channel"
            self._note(text)
        name = self._directory.console(self._spec, n).name
        start = "restored" if guest.restored else "cold"
        self._boots.append(BootRecord(n, name, self._first_test, ending.text, start))
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
        known = self._known_before = self._results[event.test]
        self._pending.pop(event.test, None)
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
