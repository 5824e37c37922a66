# SPDX-License-Identifier: GPL-2.0-only
"""What tasks of the suites can become: another program, root of nested user namespaces."""

import os
from pathlib import Path

import pytest
from nslib import (
    NS,
    Task,
    TaskEndedError,
    descend,
    end_child,
    execute,
    has_feature,
    inside_new,
    nest,
    ns_link,
    pid_in_proc,
    replace_by_program,
    start_idle,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")
needs_ids = pytest.mark.skipif(not has_feature("nsid"), reason="needs ids of namespaces")


def _exe(task: Task) -> str:
    return str(Path(f"/proc/{task.pid}/exe").readlink())


def _close_and_die(output: int) -> None:
    os.close(output)
    os._exit(0)


class TestProgram:
    def test_takes_the_place_of_a_task(self) -> None:
        with Task() as task:
            before = _exe(task)
            replace_by_program(task)
            assert before != _exe(task)
            assert "memfd:program" in _exe(task)
            assert task.zombie().code == os.CLD_KILLED  # it waits for that

    def test_task_that_does_not_become_one_is_reported(self) -> None:
        with Task() as task, pytest.raises(TaskEndedError, match=f"{task.pid} ended in execve"):
            replace_by_program(task, _close_and_die)

    def test_failing_exec_is_raised(self) -> None:
        with Task() as task, pytest.raises(OSError, match="Bad file descriptor"):
            task.call(execute, 1000)


class TestIdle:
    def test_waits_in_its_namespaces(self) -> None:
        pidfd = start_idle(NS.UTS)
        inside = ns_link(NS.UTS, pid_in_proc(pidfd)).readlink()
        end_child(pidfd)
        assert inside != ns_link(NS.UTS).readlink()


@needs_ids
class TestNest:
    def test_each_is_inside_the_one_before(self) -> None:
        with nest(NS.UTS | NS.IPC, 3) as made:
            assert made.users == sorted(set(made.users))
            assert made.owned.keys() == {NS.UTS, NS.IPC}
            assert len(made.ids) == 5

    def test_root_in_the_innermost(self) -> None:
        with Task() as task:
            assert len(task.call(descend, 2)) == 2
            assert task.call(os.geteuid) == 0


@needs_ids
@pytest.mark.parametrize("kind", [NS.UTS, NS.MNT, NS.PID, NS.TIME], ids=lambda kind: kind.link)
def test_inside_new_returns(kind: NS) -> None:
    places = {ns_link(name): ns_link(name).readlink() for name in (kind, kind.child_link)}
    here = Path.cwd()
    with inside_new(kind) as first:
        pass
    with inside_new(kind) as second:
        pass
    assert first < second
    assert {path: path.readlink() for path in places} == places
    assert Path.cwd() == here
