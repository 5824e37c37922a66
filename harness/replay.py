# SPDX-License-Identifier: GPL-2.0-only
"""Results from a recorded event stream: events-N.jsonl, what the guest said during boot N.

A stream is one JSON object a line. The first, the plan, comes from the harness, the rest from
the guest; events that are not named here say nothing about results:

    {"event":"plan","spec":"debian:7.3.4","tests":[{"id":…,"suite":…,"behaviours":[…]},…]}
    {"event":"hello","release":"7.3.4","python":"3.11.2"}
    {"event":"ready","features":["listns"]}
    {"event":"start","test":"listns/test_basic.py::test_empty"}
    {"event":"finish","test":…,"outcome":"pass","duration":0.03,"reason":"","detail":"",
     "observations":{},"splats":[],"taint":0}
    {"event":"bye"}
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.decode import decode
from harness.events import Finish, Hello, Ready, Start
from harness.guest.wire import Decoder, Message
from harness.results import BootRecord, KernelResult, Outcome, TestResult, merge
from vm.errors import ConfigError

# include/linux/panic.h: TAINT_BAD_PAGE, TAINT_DIE, TAINT_WARN, TAINT_SOFTLOCKUP. The kernel sets
# none of them without a message.
_COMPLAINTS = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14


@dataclass(frozen=True)
class _Plan:
    spec: str
    tests: tuple[TestResult, ...]


def plan_event(spec: str, tests: Iterable[TestResult]) -> dict[str, object]:
    """The first event of a stream: what is to be run in this boot."""
    planned = [{"id": t.id, "suite": t.suite, "behaviours": t.behaviours} for t in tests]
    return {"event": "plan", "spec": spec, "tests": planned}


def attempt(test: TestResult, finish: Finish, boot: int) -> TestResult:
    """The result of one attempt at `test`: a test that did well while the kernel did not is a
    `splat`, and the kernel's lines go with its detail."""
    well = finish.outcome in (Outcome.PASS, Outcome.SKIP)
    splats = _splats(finish)
    return TestResult(
        id=test.id,
        suite=test.suite,
        behaviours=test.behaviours,
        outcome=Outcome.SPLAT if well and splats else finish.outcome,
        attempts=1,
        boot=boot,
        duration=finish.duration,
        reason=splats[0] if well and splats else finish.reason,
        detail="\n".join(filter(None, (finish.detail, *splats))),
        observations=finish.observations,
    )


def _splats(finish: Finish) -> tuple[str, ...]:
    """Return what the kernel complained of, as far as its log still had it: a flood drives old
    lines out, and what it says between two tests belongs to neither."""
    if finish.splats or not finish.taint & _COMPLAINTS:
        return finish.splats
    return (f"the kernel's taint says that it complained ({finish.taint:#x}): see its console",)


def replay(kernel: KernelResult, stream: Path, boot: int) -> KernelResult:
    """Add what the event stream of boot number `boot` tells to what is known of a kernel.

    Lines that are no events, and events that fit no test, are counted in the record of the boot.
    A test that started and did not finish is `notrun`: the stream does not tell whether the
    kernel, the test or the harness ended. Raises OSError if the file cannot be read.
    """
    decoder = Decoder()
    messages = decoder.feed(stream.read_bytes() + b"\n")
    state = _Replay(kernel, boot)
    state.plan(next(messages, {}))
    for message in messages:
        state.take(message)
    return state.result(decoder.rubbish)


class _Replay:
    def __init__(self, kernel: KernelResult, boot: int) -> None:
        self._kernel = kernel
        self._boot = boot
        self._tests = {test.id: test for test in kernel.tests}
        self._running: dict[str, TestResult] = {}
        self._unfit = 0
        self._end = "cut off"

    def plan(self, event: Message) -> None:
        with self._tolerant():
            plan = decode(_Plan, event, "plan")
            self._kernel = replace(self._kernel, spec=plan.spec)
            for test in plan.tests:
                self._tests.setdefault(test.id, test)

    def take(self, event: Message) -> None:
        with self._tolerant():
            self._take(event)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except (LookupError, ConfigError):
            # A guest may send anything, even well-formed events about tests that do not exist.
            self._unfit += 1

    def _take(self, event: Message) -> None:
        kind = event["event"]
        if kind == "hello":
            hello = decode(Hello, event, "hello")
            self._kernel = replace(self._kernel, release=hello.release)
        elif kind == "ready":
            self._kernel = replace(self._kernel, features=decode(Ready, event, "ready").features)
        elif kind == "start":
            test = self._tests[decode(Start, event, "start").test]
            self._running[test.id] = test
        elif kind == "finish":
            self._finish(decode(Finish, event, "finish"))
        elif kind == "bye":
            self._end = "clean"

    def _finish(self, finish: Finish) -> None:
        test = self._tests[finish.test]
        self._tests[test.id] = merge(test, attempt(test, finish, self._boot))
        self._running.pop(test.id, None)

    def result(self, rubbish: int) -> KernelResult:
        for test in self._running.values():
            cut_off = replace(test, boot=self._boot, reason="cut off in this test")
            self._tests[test.id] = cut_off if test.outcome is Outcome.NOTRUN else test
        lost = rubbish + self._unfit
        end = f"{self._end}, unreadable events: {lost}" if lost else self._end
        record = BootRecord(self._boot, f"console-{self._boot}.log", None, end)
        return replace(
            self._kernel,
            boots=(*self._kernel.boots, record),
            tests=tuple(self._tests.values()),
        )
