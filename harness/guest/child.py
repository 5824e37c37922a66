# SPDX-License-Identifier: GPL-2.0-only
"""One test in a process of its own, and what became of it."""

import contextlib
import gc
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Literal

import pytest

from harness.guest.wire import REASON_LIMIT, TEXT_LIMIT, cut

# What a test may meet when the kernel does not keep its promise. All else is the test's own fault.
_KERNEL_FAULTS = (AssertionError, OSError, pytest.fail.Exception)

_OUTPUT_LIMIT = 1 << 20
# What a test prints is kept in memory, of which a guest has little.
_FILE_LIMIT = 64 << 20
_When = Literal["setup", "call", "teardown"]
_BEGUN = b"\n"


@dataclass(frozen=True)
class Verdict:
    """What a test found: `pass`, `fail`, `skip` or `error`, why, and what it observed."""

    outcome: str
    reason: str = ""
    detail: str = ""
    observations: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class TestProcess:
    """A test's process, which waits for a word before it begins.

    `verdict` and `output` are files in memory that it writes to. Files and no pipes: a pipe ends
    only when whatever the test left behind has closed it too. The first byte of `verdict` says
    that the test has begun.
    """

    pid: int
    item: pytest.Item
    verdict: int
    output: int
    word: int

    def begin(self) -> None:
        """Let the test begin."""
        # The process may have been stopped, or killed, while it waited; has_begun() tells.
        with contextlib.suppress(ProcessLookupError, BrokenPipeError):
            os.kill(self.pid, signal.SIGCONT)
            os.write(self.word, b"!")

    def has_begun(self) -> bool:
        """Whether the test has had its chance: what ended its process before is not its fault."""
        return os.pread(self.verdict, 1, 0) == _BEGUN

    def is_there(self) -> bool:
        """Whether it has not ended before its time: killed for want of memory, or by mistake."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def close(self) -> None:
        """Give the descriptors back; a process that has not begun ends then."""
        for descriptor in (self.verdict, self.output, self.word):
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
        """Run a test; the process is of no use for another one afterwards."""
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return self._verdict

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        """Take the place of pytest's own runner."""
        self._verdict = _judge(item)
        return True


def prepare(item: pytest.Item, judge: Judge, rehearsal: pytest.Item | None) -> TestProcess:
    """Start a process in a session of its own that runs `item` when it is told to begin.

    Until then it takes part in a `rehearsal`, if there is one: after fork(2) each page that a
    process writes to has to be copied first, which takes longer than most tests. Raises OSError
    where there is no room for a process.
    """
    with contextlib.ExitStack() as undo:
        verdict, output = (_file(name, undo) for name in ("verdict", "output"))
        order, word = os.pipe2(os.O_CLOEXEC)
        undo.callback(os.close, word)
        try:
            pid = os.fork()
            if pid == 0:
                os.close(word)
                _run(TestProcess(0, item, verdict, output, order), judge, rehearsal)
        finally:
            os.close(order)
        undo.pop_all()
        return TestProcess(pid, item, verdict, output, word)


def _file(name: str, undo: contextlib.ExitStack) -> int:
    descriptor = os.memfd_create(name)
    undo.callback(os.close, descriptor)
    return descriptor


def result(test: TestProcess, status: int) -> End:
    """Read what a test has found that has just ended with the wait `status`."""
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
    if verdict.outcome not in ("pass", "skip"):
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


def _run(test: TestProcess, judge: Judge, rehearsal: pytest.Item | None) -> None:
    """Do the test and leave; the caller's stack is never returned to."""
    try:
        _settle_in(test)
        if rehearsal is not None:
            judge.verdict_on(rehearsal)
        if os.read(test.word, 1):
            os.close(test.word)
            os.write(test.verdict, _BEGUN)
            _send(test.verdict, judge.verdict_on(test.item))
    except BaseException as error:
        _send(test.verdict, Verdict("error", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def _settle_in(test: TestProcess) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, resource.RLIM_INFINITY))
    os.dup2(test.output, 1)
    os.dup2(test.output, 2)
    gc.enable()


def _send(descriptor: int, verdict: Verdict) -> None:
    short = replace(verdict, reason=verdict.reason[:REASON_LIMIT], detail=cut(verdict.detail))
    end = asdict(End(short, time.monotonic()))
    os.write(descriptor, json.dumps(end, default=repr).encode() + b"\n")


def _judge(item: pytest.Item) -> Verdict:
    """Take a test through pytest's three phases; what is wrong first is the verdict."""
    hook = item.ihook
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
