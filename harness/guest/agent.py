# SPDX-License-Identifier: GPL-2.0-only
"""The half of the harness that runs in the guest, as its process 1.

As process 1 it cannot be killed by a test or chosen by the OOM killer, and every orphan becomes
its child. It says `hello`, runs the tests that it is told to, one at a time, and powers off.
"""

import contextlib
import gc
import os
import platform
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pytest

from harness.guest import census, child, kmsg
from harness.guest.child import RunningTest, Verdict
from harness.guest.wire import REASON_LIMIT, Decoder, Message, cut, encode

# What pytest does for people at terminals costs a guest a quarter of its start.
_PYTEST_OPTIONS = [
    f"-pno:{plugin}"
    for plugin in (
        "cacheprovider capture debugging doctest faulthandler junitxml legacypath logging "
        "monkeypatch pastebin recwarn reports setuponly setupplan stepwise subtests terminal "
        "threadexception tmpdir unittest unraisableexception warnings"
    ).split()
]
# Nobody can ask for more of a failed assert later.
_PYTEST_OPTIONS.append("--override-ini=verbosity_assertions=2")
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


class Channel:
    """The line to the harness: messages out at once, messages in when they are waited for."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._decoder = Decoder()
        self._inbox: list[Message] = []

    def send(self, event: str, **fields: object) -> None:
        """Send one event."""
        data = encode({"event": event, **fields})
        while data:
            data = data[os.write(self.descriptor, data) :]

    def receive(self) -> Message:
        """Wait for the next command."""
        while not self._inbox:
            self._inbox.extend(self._decoder.feed(os.read(self.descriptor, 1 << 16)))
        return self._inbox.pop(0)


@dataclass(frozen=True)
class Settings:
    """What the harness decides for all tests of a boot."""

    timeout_scale: float
    splat: str


@dataclass(frozen=True)
class _End:
    """How a test's process ended: on time, or killed; `stuck` if even that did not end it."""

    verdict: Verdict
    stuck: bool = False


class Agent:
    """A pytest plugin: takes the place of the loop that runs all collected tests."""

    def __init__(
        self, channel: Channel, features: Callable[[], list[str]], lacking: list[str]
    ) -> None:
        self._channel = channel
        self._features = features
        self._lacking = lacking
        self._items: dict[str, pytest.Item] = {}
        self._log = kmsg.KernelLog()
        # A guest that differs from this after a test is not used for another one.
        self._pristine = census.take()
        self._taint = kmsg.taint()
        self._children = _Children()
        self.judge = child.Judge()
        self._next_beat = 0.0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell the harness of a test file that cannot be imported."""
        if report.failed:
            self._channel.send("broken", what=report.nodeid, detail=cut(report.longreprtext))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Serve the harness until it has no more tests."""
        self._items = {item.nodeid: item for item in session.items}
        # A collection in a test's process would copy every page that holds an object.
        gc.collect()
        gc.freeze()
        self._channel.send(
            "hello",
            release=platform.release(),
            arch=platform.machine(),
            python=platform.python_version(),
            cpus=os.cpu_count(),
            uptime=time.clock_gettime(time.CLOCK_BOOTTIME),
            features=self._features(),
            lacking=self._lacking,
            tests=len(self._items),
        )
        while (command := self._channel.receive()).get("command") == "run":
            settings = Settings(float(command["timeout_scale"]), str(command["splat"]))  # type: ignore[arg-type]
            os.environ["NSCONFORM_TIMEOUT_SCALE"] = str(settings.timeout_scale)
            # A guest that a test has spoilt is not used again; the harness starts another.
            if all(self._run(test, settings) for test in command["tests"]):  # type: ignore[attr-defined]
                self._channel.send("done")
        return True

    def _run(self, test: str, settings: Settings) -> bool:
        """Run one test and report on it; False if the guest is not what it was before."""
        self._log.new_lines()
        self._log.mark(f"start {test}")
        self._channel.send("start", test=test)
        started = time.monotonic()
        end = self._outcome(test, settings)
        duration = time.monotonic() - started
        verdict, dirty = _clean_up(self._pristine, end)
        self._log.mark(f"finish {test}")
        before, self._taint = self._taint, kmsg.taint()
        taint = self._taint & ~before
        dirty = dirty or bool(taint & _TAINT_DIE)
        logged = self._log.new_lines()
        if killed := kmsg.matching(logged, _OUT_OF_MEMORY):
            reason = f"{verdict.reason}; {killed[0]}".lstrip("; ")
            verdict = replace(verdict, reason=reason[:REASON_LIMIT])
        self._channel.send(
            "finish",
            test=test,
            duration=round(duration, 4),
            splats=kmsg.matching(logged, settings.splat)[:_MAX_SPLATS],
            taint=taint,
            stuck=end.stuck,
            dirty=dirty,
            **asdict(verdict),
        )
        return not dirty

    def _outcome(self, test: str, settings: Settings) -> _End:
        item = self._items.get(test)
        if item is None:
            return _End(Verdict("error", "no such test in the guest: is its file importable?"))
        running = child.start(item, self.judge)
        try:
            return self._follow(running, _deadline(item), settings.timeout_scale)
        finally:
            running.close()

    def _follow(self, test: RunningTest, deadline: float, scale: float) -> _End:
        seconds = deadline * scale
        status = self._wait(test, seconds)
        if status is not None:
            return _End(child.result(test, status))
        detail = child.output_of(test)
        census.kill_all()
        why = f"no end after {seconds:.0f} s"
        if self._wait(test, _KILL_SECONDS * scale) is not None:
            return _End(Verdict("timeout", why, detail))
        reason = f"{why}, and SIGKILL does not end it"
        return _End(Verdict("timeout", reason, cut(detail + _kernel_stack(test.pid))), stuck=True)

    def _wait(self, test: RunningTest, seconds: float) -> int | None:
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
            self._channel.send("heartbeat")
            self._next_beat = now + _HEARTBEAT_SECONDS


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


def _prefer_children_when_memory_is_short() -> None:
    """Make tests the OOM killer's first choice; process 1 is exempt, and passes the score on."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _deadline(item: pytest.Item) -> float:
    marker = item.get_closest_marker("deadline")
    return float(marker.args[0]) if marker else _DEFAULT_DEADLINE


def _clean_up(before: census.Census, end: _End) -> tuple[Verdict, bool]:
    """Restore the guest after a test.

    What the test left behind fails it, and spoils the boot if it stays: then the second is True.
    """
    if end.stuck:
        return end.verdict, True
    processes = census.end_leftovers()
    leaked = census.settle(before)
    dirty = bool(leaked) or processes.immortal
    left = [f"processes {census.few(processes.names)}"] if processes.names else []
    left += [leaked] if leaked else []
    if not left or end.verdict.outcome not in ("pass", "skip"):
        return end.verdict, dirty
    reason = f"left behind: {', '.join(left)}"
    return replace(end.verdict, outcome="fail", reason=reason), dirty


def serve(
    descriptor: int, features: Callable[[], list[str]], lacking: list[str], suites: str
) -> None:
    """Talk to the harness over `descriptor` until it is done.

    `suites` is the folder of the tests, `features` finds out what the kernel offers, `lacking`
    names the file systems that could not be mounted.
    """
    channel = Channel(descriptor)
    try:
        agent = Agent(channel, features, lacking)
        _prefer_children_when_memory_is_short()
        argv = [*_PYTEST_OPTIONS, f"--rootdir={suites}", suites]
        status = pytest.main(argv, plugins=[agent, agent.judge])
        channel.send("bye", status=int(status))
    except BaseException:
        channel.send("broken", what="agent", detail=cut(traceback.format_exc()))
        raise
