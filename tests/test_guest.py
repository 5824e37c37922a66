# SPDX-License-Identifier: GPL-2.0-only
"""The half of the harness that runs in the guest, as far as it does without one.

Tests run in a process that is no child of pytest's own, because the agent reaps every child; what
ends other processes runs as process 1 of a pid namespace of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.guest import census, kmsg, runner
from harness.guest.census import Census, Leftovers
from harness.guest.child import End, Judge, Verdict
from harness.guest.runner import Runner, Settings
from harness.guest.wire import REASON_LIMIT, TEXT_LIMIT

ROOT = Path(__file__).parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

MISBEHAVING = """
import os, signal, time
import pytest

@pytest.fixture
def observe(request):
    return lambda name, value: request.node.user_properties.append((name, value))

def test_passes(observe):
    observe("errno", "ENOENT")
    print("not shown")

def test_fails():
    print("printed")
    value = 1
    assert value == 2, "why"

def test_fails_in_the_kernel():
    raise OSError(22, "why")

def test_is_at_fault():
    raise TypeError("a mistake")

def test_skips():
    pytest.skip("no reason")

@pytest.fixture
def broken():
    yield
    raise OSError(5, "too late")

def test_fails_afterwards(broken):
    pass

def test_fails_twice(broken):
    assert False, "first"

def test_exits():
    print("last words")
    os._exit(3)

def test_is_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def test_is_killed_by_a_realtime_signal():
    os.kill(os.getpid(), 40)

def test_lets_a_child_come_back():
    if os.fork():
        os.wait()

def test_prints_without_end():
    while True:
        os.write(1, b"x" * (1 << 20))

def test_says_too_much():
    print("p" * (1 << 20))
    raise AssertionError("r" * (1 << 20))

def test_observes_too_much(observe):
    observe("all", "x" * (1 << 20))

def test_observes_what_json_has_not(observe):
    observe("set", {1})

def test_is_interrupted():
    raise KeyboardInterrupt

def test_has_a_session_of_its_own():
    assert os.getsid(0) == os.getpid()

@pytest.mark.deadline(0.2)
def test_takes_too_long():
    print("so far")
    time.sleep(1000)

@pytest.mark.deadline(0.2)
def test_is_stopped():
    os.kill(os.getpid(), signal.SIGSTOP)

@pytest.mark.deadline(2.2)
def test_makes_orphans_without_end():
    while True:
        if os.fork() == 0:
            os.fork()
            os._exit(0)
"""

# The agent without /dev/kmsg and without what only process 1 may do: it follows each test and says
# how that ended, and how many heartbeats it sent meanwhile.
FOLLOW = """
import json, os, signal, sys
from dataclasses import asdict
import pytest
from harness.guest import agent, census, child, kmsg
from harness.guest.runner import Runner

census.kill_all = lambda: os.kill(running[0], signal.SIGKILL)
kmsg.KernelLog = object
running = []
beats = []
judge = child.Judge()

class Recorder:
    def pytest_runtestloop(self, session):
        items = {item.nodeid: item for item in session.items}
        runner = Runner(lambda event, **fields: beats.append(event), items.get, judge)
        for test in items:
            beats.clear()
            process = runner._process(test)
            running[:] = [process.pid]
            ended = runner._outcome(process, None, 1.0)
            report = asdict(ended.end.verdict) | {"stuck": ended.stuck, "beats": len(beats)}
            print(json.dumps({items[test].name: report}), file=out, flush=True)
        return True

out = os.fdopen(int(sys.argv[1]), "w")
pytest.main([*agent._PYTEST_OPTIONS, "-c", "/dev/null", *sys.argv[2:]],
            plugins=[Recorder(), judge])
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """What the agent says of each of the misbehaving tests, by name."""
    folder = tmp_path_factory.mktemp("guest")
    (folder / "test_it.py").write_text(MISBEHAVING)
    (folder / "out").touch()
    with (folder / "out").open("w") as out:
        argv = [sys.executable, "-u", "-c", FOLLOW, str(out.fileno()), str(folder / "test_it.py")]
        subprocess.run(argv, cwd=ROOT, pass_fds=[out.fileno()], check=False, timeout=120)
    merged: dict[str, dict[str, Any]] = {}
    for line in (folder / "out").read_text().splitlines():
        merged |= json.loads(line)
    return merged


class TestVerdict:
    @pytest.mark.parametrize(
        ("test", "outcome", "reason"),
        [
            ("passes", "pass", ""),
            ("fails_in_the_kernel", "fail", "OSError: [Errno 22] why"),
            ("is_at_fault", "error", "TypeError: a mistake"),
            ("skips", "skip", "no reason"),
            ("fails_afterwards", "fail", "OSError: [Errno 5] too late"),
            ("exits", "error", "the test ended its process with exit(3)"),
            ("is_killed", "fail", "the test's process was killed by SIGKILL"),
            ("is_killed_by_a_realtime_signal", "fail",
             "the test's process was killed by signal 40"),
            ("lets_a_child_come_back", "error",
             "a child of the test came back from it: os._exit() is missing there"),
            ("prints_without_end", "error",
             "the test printed, or wrote to a file, more than 64 MB"),
            ("observes_too_much", "error", "the test's observations are longer than 64 kB"),
            ("observes_what_json_has_not", "pass", ""),
            ("has_a_session_of_its_own", "pass", ""),
            ("takes_too_long", "timeout", "no end after 0 s"),
            ("is_stopped", "timeout", "no end after 0 s"),
            ("makes_orphans_without_end", "timeout", "no end after 2 s"),
        ],
    )  # fmt: skip
    def test_on(
        self, verdicts: Mapping[str, dict[str, Any]], test: str, outcome: str, reason: str
    ) -> None:
        verdict = verdicts[f"test_{test}"]
        assert (verdict["outcome"], verdict["reason"]) == (outcome, reason)
        assert not verdict["stuck"]

    def test_every_test_has_one(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        assert len(verdicts) == MISBEHAVING.count("def test_")

    def test_failure_with_its_detail(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        verdict = verdicts["test_fails"]
        assert verdict["outcome"] == "fail"
        assert verdict["reason"].startswith("AssertionError: why")
        assert "assert value == 2" in verdict["detail"]
        assert verdict["detail"].endswith("--- printed ---\nprinted\n")

    def test_first_failure_counts(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        assert verdicts["test_fails_twice"]["reason"].startswith("AssertionError: first")

    def test_observations(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        assert verdicts["test_passes"]["observations"] == {"errno": "ENOENT"}
        assert verdicts["test_passes"]["detail"] == ""
        assert verdicts["test_observes_what_json_has_not"]["observations"] == {"set": "{1}"}

    def test_output_of_what_did_not_finish(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        assert verdicts["test_exits"]["detail"].endswith("last words\n")
        assert verdicts["test_takes_too_long"]["detail"].endswith("so far\n")

    def test_what_is_too_long_is_cut(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        for name in ("test_says_too_much", "test_prints_without_end"):
            assert len(verdicts[name]["detail"]) < TEXT_LIMIT + 100
        assert len(verdicts["test_says_too_much"]["reason"]) == REASON_LIMIT

    def test_interrupt_of_its_own_making_ends_only_the_test(
        self, verdicts: Mapping[str, dict[str, Any]]
    ) -> None:
        assert verdicts["test_is_interrupted"]["outcome"] == "error"

    def test_agent_shows_that_it_lives_whatever_ends_meanwhile(
        self, verdicts: Mapping[str, dict[str, Any]]
    ) -> None:
        assert verdicts["test_makes_orphans_without_end"]["beats"] >= 2


class TestCensus:
    BEFORE = Census(frozenset({1, 2}), frozenset({"a", "b"}))

    @pytest.mark.parametrize(
        ("after", "leaked"),
        [
            (BEFORE, ""),
            (Census(frozenset({1}), frozenset({"a", "b"})), ""),
            (Census(frozenset({1, 2, 9, 8}), frozenset({"a", "b"})), "namespaces [8, 9]"),
            (Census(frozenset({1, 2}), frozenset({"a", "b", "c"})), "mounts ['c']"),
            (Census(frozenset({1, 2}), frozenset({"a"})), "unmounted ['b']"),
            (Census(frozenset({3}), frozenset({"c"})),
             "namespaces [3], mounts ['c'], unmounted ['a', 'b']"),
            (Census(frozenset(range(20)), frozenset({"a", "b"})),
             "namespaces [0, 3, 4, 5, 6, 7, 8, 9, 10, 11] and 8 more"),
        ],
    )  # fmt: skip
    def test_leaks(self, after: Census, leaked: str) -> None:
        assert after.leaked_since(self.BEFORE) == leaked

    def test_mounts_of_this_process(self) -> None:
        mounts = census.take().mounts
        assert [mount for mount in mounts if " /proc " in mount]
        assert not census.take().leaked_since(census.take())

    def test_settle_waits_for_what_is_on_its_way_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        leaving = iter([{1, 2, 3}, {1, 2, 3}, {1, 2}])
        monkeypatch.setattr(
            "harness.guest.census.take",
            lambda: Census(frozenset(next(leaving)), self.BEFORE.mounts),
        )
        assert census.settle(self.BEFORE) == ""

    def test_settle_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.guest.census._GRACE_SECONDS", 0.02)
        monkeypatch.setattr(
            "harness.guest.census.take", lambda: Census(frozenset({3}), self.BEFORE.mounts)
        )
        assert census.settle(self.BEFORE) == "namespaces [3]"

    @pytest.mark.parametrize(
        ("pages", "found"),
        [
            ([[1, 2], [3], []], {1, 2, 3}),
            ([[]], set()),
            ([None], set()),
            # A broken kernel whose cursor includes the id that it names goes on for ever.
            ([[1, 2], [2, 3], [3, 4]], {1, 2}),
        ],
        ids=["pages", "none", "no listns", "endless"],
    )
    def test_namespaces(
        self, monkeypatch: pytest.MonkeyPatch, pages: list[list[int] | None], found: set[int]
    ) -> None:
        answers = iter(pages)

        class Libc:
            @staticmethod
            def syscall(_number: int, _request: bytes, buffer: Any, *_: Any) -> int:
                page = next(answers)
                if page is None:
                    return -1
                buffer[: len(page)] = page
                return len(page)

        monkeypatch.setattr("harness.guest.census._libc", Libc)
        assert census.take().namespaces == found

    def test_only_process_1_ends_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.guest.census.os", SimpleNamespace(getpid=lambda: 2))
        with pytest.raises(RuntimeError, match="only process 1"):
            census.kill_all()


PASS = Verdict("pass")


class TestReport:
    """What the agent says of a test that has ended, without running one."""

    @pytest.fixture
    def report(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
        """Has the agent report on a test after which the kernel's log and taint are these."""

        def finish(
            logged: Sequence[str] = (),
            taint: int = 0,
            verdict: Verdict = PASS,
            **end: Any,
        ) -> dict[str, Any]:
            log, taints, sent = FakeLog(logged), iter([1, 1 | taint]), list[dict[str, Any]]()
            monkeypatch.setattr("harness.guest.kmsg.KernelLog", lambda: log)
            monkeypatch.setattr("harness.guest.kmsg.taint", lambda: next(taints))
            monkeypatch.setattr("harness.guest.runner._Children", object)
            monkeypatch.setattr("harness.guest.census.take", lambda: TestCensus.BEFORE)
            monkeypatch.setattr("harness.guest.census.end_leftovers", lambda _: Leftovers())
            ended = runner._Ended(End(verdict, 0.0), **end)
            monkeypatch.setattr("harness.guest.runner.Runner._outcome", lambda *_: ended)
            made = Runner(
                lambda event, **rest: sent.append({"event": event, **rest}),
                lambda _: None,
                Judge(),
            )
            goes_on = made.run(["a"], Settings(1.0, "WARNING: |BUG: "))
            assert [one["event"] for one in sent] == ["start", "finish"]
            assert log.marks == ["start a", "finish a"]
            assert goes_on is not sent[1]["dirty"]
            return sent[1]

        return finish

    def test_of_a_pass(self, report: Callable[..., dict[str, Any]]) -> None:
        said = report(["harmless"])
        assert (said["outcome"], said["splats"], said["taint"]) == ("pass", [], 0)
        assert not said["dirty"]

    def test_of_warnings(self, report: Callable[..., dict[str, Any]]) -> None:
        said = report(["harmless", "WARNING: a", "BUG: b"], taint=512)
        assert (said["outcome"], said["splats"]) == ("pass", ["WARNING: a", "BUG: b"])
        assert (said["taint"], said["dirty"]) == (512, False)

    def test_of_a_flood_of_warnings(self, report: Callable[..., dict[str, Any]]) -> None:
        assert len(report(["WARNING: again"] * 10_000)["splats"]) == 50

    def test_guest_in_which_the_kernel_has_oopsed_is_not_used_again(
        self, report: Callable[..., dict[str, Any]]
    ) -> None:
        # include/linux/panic.h, TAINT_DIE
        assert report(taint=1 << 7)["dirty"]

    def test_process_that_hangs_spoils_the_guest(
        self, report: Callable[..., dict[str, Any]]
    ) -> None:
        said = report(verdict=Verdict("timeout", "no end"), stuck=True)
        assert (said["outcome"], said["stuck"], said["dirty"]) == ("timeout", True, True)

    def test_oom_killer_is_named(self, report: Callable[..., dict[str, Any]]) -> None:
        killed = "Out of memory: Killed process 102 (init) total-vm:8kB"
        said = report(["x", killed], verdict=Verdict("fail", "killed by SIGKILL"))
        assert said["reason"] == f"killed by SIGKILL; {killed}"
        assert report([killed])["reason"] == killed


class FakeLog:
    """The kernel's log of one test: what was there before is read first."""

    def __init__(self, logged: Sequence[str]) -> None:
        self._parts = iter([["WARNING: of an earlier test"], list(logged)])
        self.marks: list[str] = []

    def mark(self, text: str) -> None:
        self.marks.append(text)

    def new_lines(self) -> list[str]:
        return next(self._parts)


LEFTOVERS = """
import json, os, signal, time
from harness.guest import census

started = time.monotonic()
assert census.end_leftovers() == census.Leftovers()
if os.fork() == 0:
    # A daemon that ignores what can be ignored, with a child that has a name of its own.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if os.fork() == 0:
        open("/proc/self/comm", "w").write("odd) name (")
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    time.sleep(1000)
while "odd) name (" not in [census._name(pid) for pid in census._living_children(0)]:
    time.sleep(0.01)
    if time.monotonic() > started + 20:
        break
# One more process, which has no part in that.
if (spare := os.fork()) == 0:
    open("/proc/self/comm", "w").write("spare")
    time.sleep(1000)
left = census.end_leftovers(spare)
print(json.dumps([sorted(left.names), left.immortal, sorted(census._children())]))
"""


@needs_root
class TestLeftovers:
    def test_are_killed_and_named(self) -> None:
        unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        argv = [*unshare, sys.executable, "-c", LEFTOVERS]
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        names, immortal, children = json.loads(done.stdout)
        assert not immortal
        assert children == []
        assert len(names) == 2
        assert not [name for name in names if "spare" in name]


class TestKernelLog:
    RECORDS = (
        b"6,1,0,-;Linux version 7.3.4\n SUBSYSTEM=x\n",
        b"4,2,10,-;WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90\n",
        b"14,3,20,-;nsconform: start a\n",
        b"30,4,30,-;BUG: a daemon says so\n",
        b"6,5,40,-;\xff;semicolon\n",
    )

    def read(self) -> list[str]:
        """The messages of RECORDS, one record a read(2) as /dev/kmsg has it."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)
        for record in self.RECORDS:
            os.write(writer, record)
        log = kmsg.KernelLog.__new__(kmsg.KernelLog)
        log._reader = reader
        try:
            return log.new_lines()
        finally:
            os.close(reader)
            os.close(writer)

    def test_lines_are_those_of_the_kernel_itself(self) -> None:
        assert self.read() == [
            "Linux version 7.3.4",
            "WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90",
            "\ufffd;semicolon",
        ]

    def test_matching(self) -> None:
        assert kmsg.matching(self.read(), "WARNING: |nothing") == [
            "WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90"
        ]

    def test_taint(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "tainted").write_text("512\n")
        monkeypatch.setattr("harness.guest.kmsg._TAINT", str(tmp_path / "tainted"))
        assert kmsg.taint() == 512
