# SPDX-License-Identifier: GPL-2.0-only
"""The process that waits for the next test, in a pid namespace instead of a guest."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.test_vm_snapshots import WAITING, check_reports

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests/guest"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# The agent with all its means but /dev/kmsg; {setup} is done to it first.
AGENT = """
import json, os, sys
import pytest
from harness.guest import agent, census, child, kmsg, runner
sys.path.insert(0, "suites")

class Log:
    def mark(self, text): pass
    def new_lines(self): return []

class Recorder:
    def pytest_runtestloop(self, session):
        items = {{item.nodeid: item for item in session.items}}
        made = runner.Runner(say, items.get, judge)
        made.rehearse(agent._rehearsal(session, os.path.join(os.getcwd(), "suites")))
        made.run(list(items), runner.Settings(1.0, "BUG: "))
        return True

def say(event, **fields):
    if event != "heartbeat":
        print(json.dumps({{"event": event, **fields}}), file=out, flush=True)

kmsg.KernelLog = Log
kmsg.taint = lambda: 0
census._namespaces = lambda: frozenset()
judge = child.Judge()
out = os.fdopen(int(sys.argv[1]), "w")
# That of the tests which run this; ours would end it.
os.environ.pop("PYTEST_CURRENT_TEST", None)
{setup}
pytest.main([*agent._PYTEST_OPTIONS, "-c", "/dev/null", *sys.argv[2:]],
            plugins=[Recorder(), judge])
"""

Reports = Mapping[str, dict[str, Any]]


@pytest.fixture
def reports(tmp_path: Path) -> Callable[..., Reports]:
    """Runs tests of tests/guest, and returns what the agent says of each in the end, by name."""

    def run(file: str, *options: str, setup: str = "") -> Reports:
        unshare = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"]
        with (tmp_path / "out").open("w") as out:
            argv = [sys.executable, "-u", "-c", AGENT.format(setup=setup), str(out.fileno())]
            subprocess.run(
                [*unshare, *argv, str(TESTS / file), *options],
                cwd=ROOT,
                pass_fds=[out.fileno()],
                check=False,
                timeout=120,
            )
        said = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
        tests = [one["test"] for one in said]
        assert [one["event"] for one in said] == ["start", "finish"] * (len(said) // 2)
        assert tests[::2] == tests[1::2]
        return {one["test"].rpartition("::test_")[2]: one for one in said[1::2]}

    return run


WELL = ("-k", "gets_over")
# Every second process never does anything.
NEVER_BEGINS = """
begin = child.TestProcess.begin
child.TestProcess.begin = lambda self, test: begin(self, test) if self.pid % 2 else None
runner._DEFAULT_DEADLINE = 0.2
"""
NO_ROOM = """
prepare = child.prepare
def only_alone(cast):
    if not cast.hurried:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return prepare(cast)
child.prepare = only_alone
"""
TWICE = """
run = runner.Runner.run
runner.Runner.run = lambda self, tests, settings: run(self, tests * 2, settings)
"""
FAILS_WHILE_IT_WAITS = """
import dataclasses
rehearsal = agent._rehearsal
def stand_by(inherited):
    raise BlockingIOError(11, "Resource temporarily unavailable")
agent._rehearsal = lambda *args: dataclasses.replace(rehearsal(*args), stand_by=stand_by)
"""
ONE_CPU = "os.cpu_count = lambda: 1"


@pytest.mark.parametrize("setup", ["", ONE_CPU, NO_ROOM])
def test_what_tests_do_to_it_does_no_harm(reports: Callable[..., Reports], setup: str) -> None:
    found = reports("waiting", setup=setup)
    assert found.keys() == WAITING.keys()
    check_reports({name: (one["outcome"], one["reason"], one["detail"])
                   for name, one in found.items()})  # fmt: skip
    assert not [name for name, one in found.items() if one["dirty"] or one["stuck"]]


def test_one_that_never_begins_is_replaced(reports: Callable[..., Reports]) -> None:
    found = reports("waiting", *WELL, setup=NEVER_BEGINS)
    assert len(found) == 5
    assert {one["outcome"] for one in found.values()} <= {"pass", "timeout"}


@pytest.mark.parametrize("setup", [TWICE, TWICE + ONE_CPU])
def test_one_test_twice(reports: Callable[..., Reports], setup: str) -> None:
    found = reports("again", setup=setup)
    assert found["uses_its_fixture"]["outcome"] == "pass", found
    assert len(found["uses_its_fixture"]["observations"]) == 1


def test_failure_while_it_waits_is_no_tests(reports: Callable[..., Reports]) -> None:
    found = reports("many", "-k", "one_of_many", setup=FAILS_WHILE_IT_WAITS)
    assert len(found) == 50
    assert {one["outcome"] for one in found.values()} == {"pass"}


def test_many(reports: Callable[..., Reports]) -> None:
    found = reports("many", "-k", "one_of_many")
    assert len(found) == 50
    assert {one["outcome"] for one in found.values()} == {"pass"}
