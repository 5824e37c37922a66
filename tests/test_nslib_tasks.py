# SPDX-License-Identifier: GPL-2.0-only
"""Tasks of the suites: processes in namespaces that do what they are told."""

import errno
import os
import select
import signal
import threading
from pathlib import Path

import pytest
from nslib import (
    NS,
    Cap,
    RemoteError,
    Task,
    TaskEndedError,
    effective_caps,
    has_feature,
    ns_link,
    open_ns,
    opened,
    owned,
    set_effective_caps,
    setns,
    unshare,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")


def _open_fds() -> set[str]:
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


def _count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a glob would open more)


def _unpicklable() -> object:
    return threading.Lock()


def _die(status: int) -> None:
    os._exit(status)


def _own_uts(count: int) -> list[str]:
    return [str(ns_link(NS.UTS).readlink()) for _ in range(count)]


def _in_thread_with_own_uts() -> tuple[str, str]:
    inside: list[str] = []

    def leave() -> None:
        unshare(NS.UTS)
        inside.append(str(ns_link(NS.UTS).readlink()))

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    return inside[0], str(ns_link(NS.UTS).readlink())


class TestTask:
    @pytest.mark.parametrize("kind", list(NS), ids=lambda kind: kind.link)
    def test_lives_in_the_new_namespace_only(self, kind: NS) -> None:
        with Task(kind) as task:
            there = {one: task.call(_link_of, one) for one in NS}
        here = {one: _link_of(one) for one in NS}
        assert {one for one in NS if there[one] != here[one]} == {kind}

    def test_is_init_of_its_pid_namespace(self) -> None:
        with Task(NS.PID) as task:
            assert task.call(os.getpid) == 1
            assert task.pid > 1

    def test_raises_the_errno_of_a_call(self) -> None:
        with Task() as task, pytest.raises(FileNotFoundError) as caught:
            task.call(os.open, "/nonexistent", os.O_RDONLY)
        assert caught.value.errno == errno.ENOENT

    def test_shows_the_traceback_of_other_exceptions(self) -> None:
        with Task() as task, pytest.raises(RemoteError, match="invalid literal"):
            task.call(int, "x")

    def test_says_when_a_result_cannot_be_sent(self) -> None:
        with Task() as task:
            with pytest.raises(RemoteError, match="cannot send"):
                task.call(_unpicklable)
            assert task.call(os.getpid) == task.pid

    def test_death_in_a_call_is_told(self) -> None:
        with Task() as task:
            with pytest.raises(TaskEndedError, match="_die"):
                task.call(_die, 3)
            assert task.wait() == (os.CLD_EXITED, 3)

    def test_fds_move_both_ways(self) -> None:
        with Task(NS.UTS) as task, owned(task.fetch(open_ns, NS.UTS)) as fd, Task() as other:
            other.call(setns, other.give(fd), NS.UTS)
            assert other.call(_own_uts, 1) == task.call(_own_uts, 1)

    def test_large_answers_arrive_whole(self) -> None:
        with Task() as task:
            assert task.call(bytes, 1_000_000) == bytes(1_000_000)

    def test_inherits_only_what_it_is_told_to(self) -> None:
        with opened("/proc/version") as fd:
            with Task() as task, pytest.raises(OSError, match=f"{errno.EBADF}"):
                task.call(os.fstat, fd)
            with Task(keep_fds=[fd]) as task:
                assert task.call(os.fstat, fd).st_ino == os.fstat(fd).st_ino

    def test_zombie_then_reaped(self) -> None:
        with Task(NS.USER | NS.NET) as task:
            assert task.zombie() == (os.CLD_KILLED, signal.SIGKILL)
            assert ns_link(NS.USER, task.pid).exists()
            assert not ns_link(NS.NET, task.pid).exists()
            task.reap()
            assert not Path(f"/proc/{task.pid}").exists()

    def test_leaves_nothing_open(self) -> None:
        before = _open_fds()
        with Task(NS.ALL) as task, task.spawn(NS.UTS) as nested, nested.spawn(NS.PID):
            pass
        assert _open_fds() == before

    def test_failed_start_leaves_nothing(self) -> None:
        before = _count_fds()
        with Task(uid=1000) as task:
            inside = task.call(_count_fds)
            with pytest.raises(PermissionError):
                task.spawn(NS.NET)
            assert task.call(_count_fds) == inside
        assert _count_fds() == before
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_works_in_a_process_with_a_thread(self) -> None:
        with Task() as task:
            inside, outside = task.call(_in_thread_with_own_uts)
        assert inside != outside


def _link_of(kind: NS) -> str:
    return str(ns_link(kind).readlink())


class TestNestedTask:
    def test_lives_below_its_creator(self) -> None:
        with Task(NS.PID | NS.UTS) as task, task.spawn(NS.PID) as nested:
            assert task.call(_own_uts, 1) == nested.call(_own_uts, 1)
            assert nested.call(os.getpid) == 1
            levels = Path(f"/proc/{nested.pid}/status").read_text().split("NSpid:")[1].split("\n")
            assert levels[0].split()[1:] == ["2", "1"]

    def test_pid_is_the_one_of_the_mounted_proc(self) -> None:
        with Task(NS.PID) as task, task.spawn(NS.USER, uid=1000) as nested:
            assert ns_link(NS.USER, nested.pid).readlink() != ns_link(NS.USER, task.pid).readlink()
            assert nested.call(os.getuid) == 1000

    def test_creator_reaps_it(self) -> None:
        with Task(NS.PID) as task:
            nested = task.spawn()
            assert nested.zombie().code == os.CLD_KILLED
            assert nested.reap().code == os.CLD_KILLED
            assert not Path(f"/proc/{nested.pid}").exists()

    def test_dies_with_its_creator(self) -> None:
        with Task() as task:
            nested = task.spawn()
            watch = os.dup(nested.pidfd)
            with owned(watch):
                task.zombie()
                assert select.select([watch], [], [], 10)[0]
                nested.close()


class TestCredentials:
    def test_other_user_without_capabilities(self) -> None:
        with Task(uid=1000) as task:
            assert task.call(os.getresuid) == (1000, 1000, 1000)
            assert task.call(os.getgroups) == []
            assert task.call(effective_caps) == Cap.NONE

    def test_other_user_with_capabilities(self) -> None:
        with Task(uid=1000, caps=Cap.SYS_ADMIN) as task:
            assert task.call(os.geteuid) == 1000
            assert task.call(effective_caps) == Cap.SYS_ADMIN

    def test_root_that_lost_a_capability_for_a_while(self) -> None:
        with Task() as task:
            full = task.call(effective_caps)
            task.call(set_effective_caps, full & ~Cap.SYS_ADMIN)
            with pytest.raises(PermissionError):
                task.call(unshare, NS.UTS)
            task.call(set_effective_caps, full)
            task.call(unshare, NS.UTS)

    def test_user_namespace_maps_every_id(self) -> None:
        with Task(NS.USER, uid=1234) as task:
            assert (
                Path(f"/proc/{task.pid}/status").read_text().split("Uid:")[1].split()[0] == "1234"
            )

    @pytest.mark.skipif(not has_feature("unprivileged_userns"), reason="switched off here")
    def test_unprivileged_creator_becomes_root_inside(self) -> None:
        with Task(uid=1000) as task, task.spawn(NS.USER | NS.NET) as nested:
            assert nested.call(os.getuid) == 0
            assert nested.call(effective_caps) & Cap.SYS_ADMIN
            assert Path(f"/proc/{nested.pid}/uid_map").read_text().split() == ["0", "1000", "1"]
