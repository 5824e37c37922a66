# SPDX-License-Identifier: GPL-2.0-only
"""One test in a process of its own, and what became of it."""

import json
import os
import resource
import signal
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


@dataclass(frozen=True)
class Verdict:
    """What a test found: `pass`, `fail`, `skip` or `error`, why, and what it observed."""

    outcome: str
    reason: str = ""
    detail: str = ""
    observations: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningTest:
    """A test's process, and the files in memory that its verdict and its output go to.

    Files and no pipes: a pipe ends only when whatever the test left behind has closed it too.
    """

    pid: int
    verdict: int
    output: int

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.verdict)
        os.close(self.output)


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


def start(item: pytest.Item, judge: Judge) -> RunningTest:
    """Run a test in a child process, in its own session."""
    verdict, output = os.memfd_create("verdict"), os.memfd_create("output")
    pid = os.fork()
    if pid == 0:
        _run(item, judge, verdict, output)
    return RunningTest(pid, verdict, output)


def result(test: RunningTest, status: int) -> Verdict:
    """Read the verdict of a test that has ended with the wait `status`."""
    if os.WIFSIGNALED(status):
        return _killed(test, os.WTERMSIG(status))
    said = _content(test.verdict).splitlines()
    if not said:
        code = os.WEXITSTATUS(status)
        return Verdict("error", f"the test ended its process with exit({code})", output_of(test))
    if len(said) > 1:
        why = "a child of the test came back from it: os._exit() is missing there"
        return Verdict("error", why, output_of(test))
    verdict = Verdict(**json.loads(said[0]))
    if verdict.outcome in ("pass", "skip"):
        return verdict
    return replace(verdict, detail=cut(verdict.detail + output_of(test)))


def _killed(test: RunningTest, number: int) -> Verdict:
    if number == signal.SIGXFSZ:
        why = f"the test printed, or wrote to a file, more than {_FILE_LIMIT >> 20} MB"
        return Verdict("error", why, output_of(test))
    known = number in signal.Signals.__members__.values()
    name = signal.Signals(number).name if known else f"signal {number}"
    return Verdict("fail", f"the test's process was killed by {name}", output_of(test))


def output_of(test: RunningTest) -> str:
    """Return what the test has printed so far, under a heading; nothing if it printed nothing."""
    text = _content(test.output).decode(errors="replace")
    return cut(f"\n--- printed ---\n{text}") if text else ""


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, _OUTPUT_LIMIT, 0)


def _run(item: pytest.Item, judge: Judge, verdict: int, output: int) -> None:
    """Do the test and leave; the caller's stack is never returned to."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, resource.RLIM_INFINITY))
        os.dup2(output, 1)
        os.dup2(output, 2)
        _send(verdict, judge.verdict_on(item))
    except BaseException as error:
        _send(verdict, Verdict("error", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def _send(descriptor: int, verdict: Verdict) -> None:
    short = replace(verdict, reason=verdict.reason[:REASON_LIMIT], detail=cut(verdict.detail))
    os.write(descriptor, json.dumps(asdict(short), default=repr).encode() + b"\n")


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
