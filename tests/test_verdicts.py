# SPDX-License-Identifier: GPL-2.0-only
"""What the agent makes of tests that misbehave.

They run in processes that are no children of pytest's own, because the agent reaps every child.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.guest.wire import REASON_LIMIT, TEXT_LIMIT

ROOT = Path(__file__).parents[1]

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
from harness.guest.runner import Runner, Settings

census.kill_all = lambda: os.kill(running[0], signal.SIGKILL)
kmsg.KernelLog = object
census.take = lambda: census.Census(frozenset(), frozenset())
running = []
beats = []
judge = child.Judge()

class Recorder:
    def pytest_runtestloop(self, session):
        items = {item.nodeid: item for item in session.items}
        runner = Runner(lambda event, **fields: beats.append(event), items.get, judge)
        for test in items:
            runner._pool.item(test)
            beats.clear()
            process = runner._pool.take(test)
            running[:] = [process.pid]
            ended = runner._outcome(process, runner._pool.item(test), [],
                                    Settings(1.0, ""))
            runner._leaked(ended)
            report = asdict(ended.end.verdict) | {
                "stuck": ended.stuck, "beats": len(beats), "pid": process.pid,
                "free": process.pid in runner._pool.pids()}
            print(json.dumps({items[test].name: report}), file=out, flush=True)
        return True

out = os.fdopen(int(sys.argv[1]), "w")
# That of the tests which run this; ours would end it.
os.environ.pop("PYTEST_CURRENT_TEST", None)
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


class TestProcess:
    def test_goes_on_after_what_was_well(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        assert verdicts["test_passes"]["free"]
        assert verdicts["test_fails"]["pid"] == verdicts["test_passes"]["pid"]

    def test_goes_on_after_a_skip(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        assert verdicts["test_skips"]["free"]

    def test_ends_after_all_else(self, verdicts: Mapping[str, dict[str, Any]]) -> None:
        free = {one["outcome"] for one in verdicts.values() if one["free"]}
        assert free == {"pass", "skip"}


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
