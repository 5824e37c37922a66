# SPDX-License-Identifier: GPL-2.0-only
"""Runs tests, one at a time, and says of each what it found and what it left behind."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest

import pytest

from harness.guest import census, child, kmsg
from harness.guest.child import End, TestProcess, Verdict
from harness.guest.wire import REASON_LIMIT, cut

# include/linux/panic.h, TAINT_DIE: a task has died in the kernel; the locks it held stay held.
_TAINT_DIE = 1 << 7
_MAX_SPLATS = 50
# mm/oom_kill.c
_OUT_OF_MEMORY = r"^(?:Out of memory|Memory cgroup out of memory): Killed process"
_HEARTBEAT_SECONDS = 1.0
_MAX_REAPED = 100
_DEFAULT_DEADLINE = 10.0
# A process that a SIGKILL has not ended after this long hangs in the kernel.
_KILL_SECONDS = 5.0

Send = Callable[..., None]
Find = Callable[[str], pytest.Item | None]


@dataclass(frozen=True)
class Settings:
    """What the harness decides for all tests of a boot."""

    timeout_scale: float
    splat: str


@dataclass(frozen=True)
class _Ended:
    """How a test's process ended; `stuck` if SIGKILL does not end it. `begun`: the test had its
    chance before."""

    end: End
    stuck: bool = False
    begun: bool = True


class Runner:
    """Runs the tests that `find` knows by their ids, and reports on them through `send`.

    While a test runs, the process of the next one is made ready, on another CPU if there is one.
    """

    def __init__(self, send: Send, find: Find, judge: child.Judge) -> None:
        self._send = send
        self._find = find
        self._judge = judge
        self._log = kmsg.KernelLog()
        # A guest that differs from this after a test is not used for another one.
        self._pristine = census.take()
        self._taint = 0
        self._children = _Children()
        self._next_beat = 0.0
        self._ready: TestProcess | None = None
        self._rehearsal: pytest.Item | None = None

    def rehearse(self, item: pytest.Item) -> None:
        """Let processes that wait for their turn go through `item` meanwhile.

        With one CPU they would only take time from the test that runs.
        """
        if (os.cpu_count() or 1) > 1:
            self._rehearsal = item

    def run(self, tests: Sequence[str], settings: Settings) -> bool:
        """Run tests in turn; False if one has spoilt the guest, in which case the others wait for
        another guest."""
        os.environ["NSCONFORM_TIMEOUT_SCALE"] = str(settings.timeout_scale)
        # Now and no earlier: what a kernel has met when its guest went on is no test's doing.
        self._taint = kmsg.taint()
        pairs = zip_longest(tests, tests[1:])
        return all(self._run(test, following, settings) for test, following in pairs)

    def _run(self, test: str, following: str | None, settings: Settings) -> bool:
        """Run one test and report on it; False if the guest is not what it was before."""
        process = self._process(test)
        self._log.new_lines()
        self._log.mark(f"start {test}")
        self._send("start", test=test)
        started = time.monotonic()
        ended = self._outcome(process, following, settings.timeout_scale)
        verdict, dirty = self._clean_up(ended)
        self._log.mark(f"finish {test}")
        before, self._taint = self._taint, kmsg.taint()
        taint = self._taint & ~before
        dirty = dirty or bool(taint & _TAINT_DIE)
        logged = self._log.new_lines()
        if killed := kmsg.matching(logged, _OUT_OF_MEMORY):
            reason = f"{verdict.reason}; {killed[0]}".lstrip("; ")
            verdict = replace(verdict, reason=reason[:REASON_LIMIT])
        self._send(
            "finish",
            test=test,
            duration=round(ended.end.time - started, 4),
            splats=kmsg.matching(logged, settings.splat)[:_MAX_SPLATS],
            taint=taint,
            stuck=ended.stuck,
            dirty=dirty,
            **asdict(verdict),
        )
        return not dirty

    def _process(self, test: str) -> TestProcess | None:
        """Return the process of a test: the one that was made ready, if it is still there."""
        ready, self._ready = self._ready, None
        if ready is not None:
            if ready.item.nodeid == test and ready.is_there():
                return ready
            ready.close()
        return self._prepared(test, None)

    def _prepared(self, test: str, rehearsal: pytest.Item | None) -> TestProcess | None:
        item = self._find(test)
        return child.prepare(item, self._judge, rehearsal) if item else None

    def _outcome(self, test: TestProcess | None, following: str | None, scale: float) -> _Ended:
        if test is None:
            why = "no such test in the guest: is its file importable?"
            return _Ended(End(Verdict("error", why), time.monotonic()))
        ended = self._once(test, following, scale)
        if ended.begun or ended.stuck:
            return ended
        # While it waited, the test before has killed it, or brought it to a halt.
        return self._once(child.prepare(test.item, self._judge, None), None, scale)

    def _once(self, test: TestProcess, following: str | None, scale: float) -> _Ended:
        try:
            test.begin()
            if following is not None:
                self._ready = self._spare(following)
            return replace(self._follow(test, scale), begun=test.has_begun())
        finally:
            test.close()

    def _spare(self, test: str) -> TestProcess | None:
        # What runs meanwhile may have taken all processes, or all memory.
        with contextlib.suppress(OSError):
            return self._prepared(test, self._rehearsal)
        return None

    def _follow(self, test: TestProcess, scale: float) -> _Ended:
        seconds = _deadline(test.item) * scale
        status = self._wait(test, seconds)
        if status is not None:
            return _Ended(child.result(test, status))
        detail = child.output_of(test)
        census.kill_all()
        why = f"no end after {seconds:.0f} s"
        stuck = self._wait(test, _KILL_SECONDS * scale) is None
        if stuck:
            why = f"{why}, and SIGKILL does not end it"
            detail = cut(detail + _kernel_stack(test.pid))
        return _Ended(End(Verdict("timeout", why, detail), time.monotonic()), stuck=stuck)

    def _wait(self, test: TestProcess, seconds: float) -> int | None:
        """Reap until the test's process ends, with a sign of life to the harness now and then."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ended = _reap()
            if test.pid in ended:
                return ended[test.pid]
            if not ended:
                self._children.wait(min(left, _HEARTBEAT_SECONDS))
            self._beat()
        return None

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._send("heartbeat")
            self._next_beat = now + _HEARTBEAT_SECONDS

    def _clean_up(self, ended: _Ended) -> tuple[Verdict, bool]:
        """Restore the guest after a test.

        What the test left behind fails it, and spoils the boot if it stays: then the second is
        True.
        """
        verdict = ended.end.verdict
        if ended.stuck:
            return verdict, True
        processes = census.end_leftovers(self._ready.pid if self._ready else 0)
        leaked = census.settle(self._pristine)
        dirty = bool(leaked) or processes.immortal
        left = [f"processes {census.few(processes.names)}"] if processes.names else []
        left += [leaked] if leaked else []
        if not left or verdict.outcome not in ("pass", "skip"):
            return verdict, dirty
        reason = f"left behind: {', '.join(left)}"
        return replace(verdict, outcome="fail", reason=reason), dirty


class _Children:
    """Wakes up when a child has ended; orphans that a test made count, as they are ours."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait(self, seconds: float) -> None:
        """Return when a child has ended since the last call, or after `seconds`."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        if ready:
            os.read(self._reader, 4096)


def _reap() -> dict[int, int]:
    """Reap children that have ended, but not for long: return their wait statuses by pid."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while len(ended) < _MAX_REAPED and (gone := os.waitpid(-1, os.WNOHANG))[0]:
            ended[gone[0]] = gone[1]
    return ended


def _kernel_stack(pid: int) -> str:
    """Return where in the kernel a process is; the kernel may be built without that knowledge."""
    try:
        with open(f"/proc/{pid}/stack") as file:
            return f"\n--- its stack in the kernel ---\n{file.read()}"
    except OSError as error:
        return f"\n/proc/{pid}/stack: {error.strerror}"


def _deadline(item: pytest.Item) -> float:
    marker = item.get_closest_marker("deadline")
    return float(marker.args[0]) if marker else _DEFAULT_DEADLINE
