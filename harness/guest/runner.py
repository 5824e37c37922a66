# SPDX-License-Identifier: GPL-2.0-only
"""Runs tests, one at a time, and says of each what it found and what it left behind."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pytest

from harness.guest import census, child, kmsg
from harness.guest.child import End, TestProcess, Verdict
from harness.guest.pool import Find, Pool
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


@dataclass(frozen=True)
class Settings:
    """What the harness decides for all tests of a boot; `budgets` has seconds by kind of test."""

    timeout_scale: float
    splat: str
    budgets: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def environment(self) -> dict[str, str]:
        """Return by what variables the tests learn of it (nslib.waiting, nslib.budgets)."""
        budgets = {
            f"NSCONFORM_{kind.upper()}_SECONDS": str(each) for kind, each in self.budgets.items()
        }
        return budgets | {
            "NSCONFORM_TIMEOUT_SCALE": str(self.timeout_scale),
            "NSCONFORM_SEED": str(self.seed),
        }

    def deadline(self, item: pytest.Item) -> float:
        """Return after how many seconds a test is ended."""
        own = item.get_closest_marker("deadline")
        seconds = float(own.args[0]) if own else _DEFAULT_DEADLINE
        if explores := item.get_closest_marker("budget"):
            kind, share = explores.args
            # As long as the user wants, on whatever machine.
            return seconds * self.timeout_scale + self.budgets.get(kind, 0.0) * float(share)
        return seconds * self.timeout_scale


@dataclass(frozen=True)
class _Over:
    """That a test is over: its process has ended with a wait `status`, or is `free` for another."""

    status: int
    free: bool = False


@dataclass(frozen=True)
class _Ended:
    """How a test ended, and its `process`: `free` for another one; `stuck` if SIGKILL does not end
    it."""

    end: End
    process: TestProcess | None = None
    free: bool = False
    stuck: bool = False

    def at_work(self) -> set[int]:
        """Return the pid of the process that could run another test, if there is one."""
        return {self.process.pid} if self.process and self.free else set()


class Runner:
    """Runs the tests that `find` knows by their ids, and reports on them through `send`."""

    def __init__(self, send: Send, find: Find, judge: child.Judge) -> None:
        self._send = send
        self._pool = Pool(find, judge)
        self._log = kmsg.KernelLog()
        # A guest that differs from this after a test is not used for another one.
        self._pristine = census.take()
        self._taint = 0
        self._children = _Children()
        self._next_beat = 0.0

    def rehearse(self, rehearsal: child.Rehearsal) -> None:
        """Let processes that wait for their turn go through a rehearsal meanwhile."""
        self._pool.rehearse(rehearsal)

    def run(self, tests: Sequence[str], settings: Settings) -> bool:
        """Run tests in turn; False if one has spoilt the guest, in which case the others wait for
        another guest."""
        os.environ.update(settings.environment())
        # Now and no earlier: what a kernel has met when its guest went on is no test's doing.
        self._taint = kmsg.taint()
        return all(self._run(tests[i:], settings) for i in range(len(tests)))

    def _run(self, tests: Sequence[str], settings: Settings) -> bool:
        """Run the first of the tests that are left, and report on it; False if the guest is not
        what it was before."""
        test = tests[0]
        item = self._pool.item(test)
        process = self._pool.take(test) if item else None
        self._log.new_lines()
        self._log.mark(f"start {test}")
        self._send("start", test=test)
        started = time.monotonic()
        if item is None or process is None:
            ended = _Ended(End(Verdict("error", child.NO_SUCH_TEST), time.monotonic()))
        else:
            ended = self._outcome(process, item, tests[1:], settings)
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

    def _outcome(
        self, process: TestProcess, item: pytest.Item, following: Sequence[str], settings: Settings
    ) -> _Ended:
        process.begin(item.nodeid)
        self._pool.get_ready(following)
        ended = self._follow(process, item, settings)
        if process.has_begun() or ended.stuck:
            return ended
        # While it waited, the test before has killed it, or brought it to a halt.
        process.close()
        fresh = self._pool.fresh()
        fresh.begin(item.nodeid)
        return self._follow(fresh, item, settings)

    def _follow(self, process: TestProcess, item: pytest.Item, settings: Settings) -> _Ended:
        seconds = settings.deadline(item)
        over = self._wait(process, seconds)
        if over is not None:
            return _Ended(child.result(process, over.status), process, over.free)
        detail = child.output_of(process)
        census.kill_all()
        why = f"no end after {seconds:.0f} s"
        stuck = self._wait(process, _KILL_SECONDS * settings.timeout_scale) is None
        if stuck:
            why = f"{why}, and SIGKILL does not end it"
            detail = cut(detail + _kernel_stack(process.pid))
        end = End(Verdict("timeout", why, detail), time.monotonic())
        return _Ended(end, process, stuck=stuck)

    def _wait(self, process: TestProcess, seconds: float) -> _Over | None:
        """Reap until the test is over, with a sign of life to the harness now and then."""
        deadline = time.monotonic() + seconds
        free: int | None = process.free
        while (left := deadline - time.monotonic()) > 0:
            ended = _reap()
            if process.pid in ended:
                return _Over(ended[process.pid])
            said = self._children.wait(0 if ended else min(left, _HEARTBEAT_SECONDS), free)
            if said:
                return _Over(0, free=True)
            # Closed: the process ends, or the test has closed what is not its own.
            free = None if said == b"" else free
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
        processes = census.end_leftovers(self._pool.pids() | ended.at_work())
        leaked = self._leaked(ended)
        dirty = bool(leaked) or processes.immortal
        left = [f"processes {census.few(processes.names)}"] if processes.names else []
        left += [leaked] if leaked else []
        if not left or not verdict.is_good:
            return verdict, dirty
        reason = f"left behind: {', '.join(left)}"
        return replace(verdict, outcome="fail", reason=reason), dirty

    def _leaked(self, ended: _Ended) -> str:
        """Let go of the test's process, and say what is still there that was not there before."""
        leaked = census.take().leaked_since(self._pristine)
        if ended.process is not None:
            if not ended.free:
                ended.process.close()
            elif leaked or not ended.end.verdict.is_good:
                ended.process.end()
            else:
                self._pool.give_back(ended.process)
        return census.settle(self._pristine) if leaked else ""


class _Children:
    """Wakes up when a child has ended; orphans that a test made count, as they are ours."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait(self, seconds: float, other: int | None) -> bytes | None:
        """Return when a child has ended since the last call, or after `seconds`, or when something
        has come from the descriptor `other`: that is returned, and nothing at its end."""
        watched = [self._reader] if other is None else [self._reader, other]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._reader in ready:
            os.read(self._reader, 4096)
        return os.read(other, 1) if other is not None and other in ready else None


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
