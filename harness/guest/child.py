# SPDX-License-Identifier: GPL-2.0-only
"""A process that runs tests, one at a time, and what became of each.

A test that leaves its process as it was hands it on to the next one. A fork takes a slow guest
longer than most tests, as each page that a process then writes to has to be copied first.
"""

import contextlib
import fcntl
import gc
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Literal

import pytest

from harness.guest import census, standing
from harness.guest.wire import REASON_LIMIT, TEXT_LIMIT, cut

# What a test may meet when the kernel does not keep its promise. All else is the test's own fault.
_KERNEL_FAULTS = (AssertionError, OSError, pytest.fail.Exception)

_OUTPUT_LIMIT = 1 << 20
# What a test prints is kept in memory, of which a guest has little.
_FILE_LIMIT = 64 << 20
_When = Literal["setup", "call", "teardown"]
_BEGUN = b"\n"
_NAME_LIMIT = 1 << 16
_END_SECONDS = 5.0
NO_SUCH_TEST = "no such test in the guest: is its file importable?"


@dataclass(frozen=True)
class Verdict:
    """What a test found: `pass`, `fail`, `skip` or `error`, why, and what it observed."""

    outcome: str
    reason: str = ""
    detail: str = ""
    observations: dict[str, object] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong: the test has passed, or there was nothing to test."""
        return self.outcome in ("pass", "skip")


@dataclass(frozen=True)
class TestProcess:
    """A process that waits to be told which test to run.

    `verdict` and `output` are files in memory that it writes to. Files and no pipes: a pipe ends
    only when whatever the test left behind has closed it too. The first byte of `verdict` says
    that the test has begun, a byte from `free` that it is over and the process is as it was; one
    that is not ends instead. `files` are those whose tests it has in memory.
    """

    pid: int
    files: frozenset[str]
    verdict: int
    output: int
    word: int
    free: int

    def begin(self, test: str) -> None:
        """Let a test begin."""
        for said in (self.verdict, self.output):
            os.ftruncate(said, 0)
        # The process may have been stopped, or killed, while it waited; has_begun() tells.
        with contextlib.suppress(ProcessLookupError, BrokenPipeError):
            os.kill(self.pid, signal.SIGCONT)
            os.write(self.word, f"{test}\n".encode())

    def has_begun(self) -> bool:
        """Whether the test has had its chance: what ended its process before is not its fault."""
        return os.pread(self.verdict, 1, 0) == _BEGUN

    def knows(self, test: str) -> bool:
        """Whether it can run a test."""
        return file_of(test) in self.files

    def is_there(self) -> bool:
        """Whether it has not ended: killed for want of memory, or by mistake."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def end(self) -> None:
        """End the process if it is still there, and give the descriptors back.

        By itself it takes with it what it has made for the next test. What not even SIGKILL ends is
        left: it will be found among the leftovers of the next test.
        """
        self.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGCONT)
            if not _ends(self.pid, _END_SECONDS):
                for pid in (*census.children(self.pid), self.pid):
                    os.kill(pid, signal.SIGKILL)
                _ends(self.pid, _END_SECONDS)
            os.waitpid(self.pid, os.WNOHANG)

    def close(self) -> None:
        """Give the descriptors back, of a process that has ended or cannot be ended."""
        for descriptor in (self.verdict, self.output, self.word, self.free):
            os.close(descriptor)


@dataclass(frozen=True)
class End:
    """What came of a test and when: the time is monotonic, in seconds."""

    verdict: Verdict
    time: float


class Judge:
    """A pytest plugin: runs a test as the inmost part of pytest's protocol.

    What other plugins wrap around that stays in force: failed asserts say how the sides differ.
    """

    def __init__(self) -> None:
        self._verdict = Verdict("error", "pytest did not run the test")

    def verdict_on(self, item: pytest.Item) -> Verdict:
        """Run a test."""
        self._verdict = Verdict("error", "pytest did not run the test")
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return self._verdict

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        """Take the place of pytest's own runner."""
        self._verdict = _judge(item)
        return True


@dataclass(frozen=True)
class Rehearsal:
    """What a process does while it waits for a test.

    It has the test's first task made (`stand_by`, `is_waiting`, `dismiss`: see nslib.standby), and
    goes through `item`, a test that takes the way of all tests.
    """

    item: pytest.Item
    stand_by: Callable[[Callable[[], object]], None]
    is_waiting: Callable[[], bool]
    dismiss: Callable[[], None]


@dataclass(frozen=True)
class Cast:
    """What processes for tests are made from: `find` returns a test by its id, of the `files` that
    have been imported. While a process waits it takes part in a `rehearsal`, if there is one; not
    before its first test if it is `hurried`."""

    find: Callable[[str], pytest.Item | None]
    files: frozenset[str]
    judge: Judge
    rehearsal: Rehearsal | None = None
    hurried: bool = False


def _ends(pid: int, seconds: float) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def file_of(test: str) -> str:
    """Return the file of a test, relative to the suites."""
    return test.partition("::")[0]


def prepare(cast: Cast) -> TestProcess:
    """Start a process in a session of its own that waits for the name of a test to run.

    Raises OSError where there is no room for a process.
    """
    with contextlib.ExitStack() as undo:
        verdict, output = (_file(name, undo) for name in ("verdict", "output"))
        order, word = _pipe(undo)
        free, freed = _pipe(undo)
        pid = os.fork()
        if pid == 0:
            os.close(word)
            os.close(free)
            _work(TestProcess(0, cast.files, verdict, output, order, freed), cast)
        undo.pop_all()
        os.close(order)
        os.close(freed)
        return TestProcess(pid, cast.files, verdict, output, word, free)


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    for end in ends:
        undo.callback(os.close, end)
    return ends


def _file(name: str, undo: contextlib.ExitStack) -> int:
    descriptor = os.memfd_create(name)
    undo.callback(os.close, descriptor)
    # It is emptied before each test, whatever was written before.
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


def result(test: TestProcess, status: int) -> End:
    """Read what a test has found; `status` is its process' wait status, or 0 if that goes on."""
    if os.WIFSIGNALED(status):
        return _now(_killed(test, os.WTERMSIG(status)))
    said = _content(test.verdict).removeprefix(_BEGUN).splitlines()
    if not said:
        code = os.WEXITSTATUS(status)
        return _now(
            Verdict("error", f"the test ended its process with exit({code})", output_of(test))
        )
    if len(said) > 1:
        why = "a child of the test came back from it: os._exit() is missing there"
        return _now(Verdict("error", why, output_of(test)))
    end = json.loads(said[0])
    verdict = Verdict(**end["verdict"])
    if not verdict.is_good:
        verdict = replace(verdict, detail=cut(verdict.detail + output_of(test)))
    return End(verdict, end["time"])


def _now(verdict: Verdict) -> End:
    return End(verdict, time.monotonic())


def _killed(test: TestProcess, number: int) -> Verdict:
    if number == signal.SIGXFSZ:
        why = f"the test printed, or wrote to a file, more than {_FILE_LIMIT >> 20} MB"
        return Verdict("error", why, output_of(test))
    known = number in signal.Signals.__members__.values()
    name = signal.Signals(number).name if known else f"signal {number}"
    return Verdict("fail", f"the test's process was killed by {name}", output_of(test))


def output_of(test: TestProcess) -> str:
    """Return what the test has printed so far, under a heading; nothing if it printed nothing."""
    text = _content(test.output).decode(errors="replace")
    return cut(f"\n--- printed ---\n{text}") if text else ""


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, _OUTPUT_LIMIT, 0)


def _work(process: TestProcess, cast: Cast) -> None:
    """Do the tests that are named, and leave; the caller's stack is never returned to."""
    try:
        _settle_in(process)
        _take_turns(process, cast)
    finally:
        # Whoever ends here while waiting for a test is replaced; there is nobody to tell.
        if cast.rehearsal is not None:
            with contextlib.suppress(OSError):
                cast.rehearsal.dismiss()
        os._exit(0)


def _take_turns(process: TestProcess, cast: Cast) -> None:
    """Run tests until one leaves the process other than it was."""
    ours = os.getpid()
    alone = before = standing.take()
    hurried = cast.hurried
    while True:
        if cast.rehearsal is not None and not hurried and not cast.rehearsal.is_waiting():
            cast.rehearsal.stand_by(standing.inherited)
            cast.judge.verdict_on(cast.rehearsal.item)
            before = standing.take()
        if not (test := _next_test(process)):
            return
        os.write(process.verdict, _BEGUN)
        verdict = _verdict_on(test, cast)
        _send(process.verdict, verdict)
        taken = cast.rehearsal is None or not cast.rehearsal.is_waiting()
        # A child that the test has let come back is not to go on in our place.
        if os.getpid() != ours or not verdict.is_good or not _is(alone if taken else before):
            return
        hurried = False
        os.write(process.free, b"!")


def _next_test(process: TestProcess) -> str:
    return os.read(process.word, _NAME_LIMIT).decode().rstrip("\n")


def _is(before: standing.Standing) -> bool:
    # What a test has done to /proc, or to the number of open files, must not become its verdict.
    with contextlib.suppress(OSError):
        return standing.take() == before
    return False


def _verdict_on(test: str, cast: Cast) -> Verdict:
    try:
        item = cast.find(test)
        return cast.judge.verdict_on(item) if item else Verdict("error", NO_SUCH_TEST)
    except BaseException as error:
        return Verdict("error", f"{type(error).__name__}: {error}")


def _settle_in(test: TestProcess) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, resource.RLIM_INFINITY))
    os.dup2(test.output, 1)
    os.dup2(test.output, 2)
    _close_all_but(test.verdict, test.output, test.word, test.free)
    gc.enable()


def _close_all_but(*ours: int) -> None:
    """Close what the agent has open: with its ends of another process' pipes open here, that
    process would not end with them."""
    start = 3
    for descriptor in sorted(ours):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def _send(descriptor: int, verdict: Verdict) -> None:
    short = replace(verdict, reason=verdict.reason[:REASON_LIMIT], detail=cut(verdict.detail))
    end = asdict(End(short, time.monotonic()))
    os.write(descriptor, json.dumps(end, default=repr).encode() + b"\n")


def _judge(item: pytest.Item) -> Verdict:
    """Take a test through pytest's three phases; what is wrong first is the verdict."""
    hook = item.ihook
    item.user_properties.clear()
    if isinstance(item, pytest.Function):
        # What it got from its fixtures when it ran before is used up (_pytest/runner.py).
        item._initrequest()
    wrong = _phase(item, "setup", hook.pytest_runtest_setup)
    if wrong is None:
        wrong = _phase(item, "call", hook.pytest_runtest_call)
    also = _phase(item, "teardown", partial(hook.pytest_runtest_teardown, nextitem=None))
    verdict = wrong or also or Verdict("pass")
    observations = dict(item.user_properties)
    if len(json.dumps(observations, default=repr)) > TEXT_LIMIT:
        return Verdict("error", f"the test's observations are longer than {TEXT_LIMIT >> 10} kB")
    return replace(verdict, observations=observations)


def _phase(item: pytest.Item, when: _When, run: Callable[..., object]) -> Verdict | None:
    """Run one phase; None if all is well, in which case no report is made: that would take as
    long as the test itself."""
    call = pytest.CallInfo.from_call(lambda: run(item=item), when=when)
    if call.excinfo is None:
        return None
    report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    if report.skipped:
        return Verdict("skip", _skip_reason(report))
    outcome = "fail" if isinstance(call.excinfo.value, _KERNEL_FAULTS) else "error"
    return Verdict(outcome, _headline(report), cut(report.longreprtext))


def _skip_reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext


def _headline(report: pytest.TestReport) -> str:
    """Return the first line of the error, without the paths and arrows around it."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else report.longreprtext
    return text.splitlines()[0] if text else ""
