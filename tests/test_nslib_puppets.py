# SPDX-License-Identifier: GPL-2.0-only
"""Puppets, against the running kernel."""

import os
from collections.abc import Iterator
from errno import EBADF, EINVAL
from pathlib import Path

import pytest
from nslib import CLONE_PARENT, LINKS, NS, ns_name
from nslib.puppets import Puppet, PuppetEndedError, first_puppet
from nslib.scripts import MOST_CALLS, Sys

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    with first_puppet() as puppet:
        yield puppet


def end(puppet: Puppet) -> None:
    puppet.kill()
    os.waitid(os.P_PIDFD, puppet.pidfd, os.WEXITED)
    puppet.release()


def fork(puppet: Puppet, flags: int = 0) -> Puppet:
    """A child of this process."""
    child = puppet.fork(flags | CLONE_PARENT)
    assert isinstance(child, Puppet)
    return child


def fds(pid: int | str) -> list[str]:
    return sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir())


def shared_mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:puppets")


def test_makes_calls_in_turn(puppet: Puppet) -> None:
    script = puppet.script()
    script.call(Sys.GETPID)
    script.call(Sys.CLOSE, 77)
    assert script.perform() == [puppet.pid, -EBADF]


def test_has_no_fds(puppet: Puppet) -> None:
    assert not fds(puppet.pid)


def test_results_are_arguments_of_later_calls(puppet: Puppet) -> None:
    script = puppet.script()
    fd = script.call(Sys.OPENAT, -100, script.text("/proc/self/comm"), os.O_RDONLY)
    script.call(Sys.WRITE, fd, script.data(b"x"), 1)
    script.call(Sys.CLOSE, fd)
    assert script.perform() == [0, -EBADF, 0]
    assert not fds(puppet.pid)


def test_data_comes_back(puppet: Puppet) -> None:
    script = puppet.script()
    room = script.data(bytes(16))
    length = script.call(Sys.READLINK, script.text("/proc/self"), room, 16)
    size = script.perform()[length.index]
    assert script.peek(room, size) == str(puppet.pid).encode()


def test_too_long_a_script(puppet: Puppet) -> None:
    script = puppet.script()
    with pytest.raises(ValueError, match="too much data"):
        script.data(bytes(8192))
    for _ in range(MOST_CALLS):
        script.call(Sys.GETPID)
    with pytest.raises(ValueError, match="too many calls"):
        script.call(Sys.GETPID)


def test_children_do_what_they_are_told(puppet: Puppet) -> None:
    first, second = fork(puppet), fork(puppet)
    for one in (second, puppet, first):
        script = one.script()
        script.call(Sys.GETPID)
        assert script.perform() == [one.pid]
    end(second)
    end(first)


@needs_root
def test_child_in_new_namespaces(puppet: Puppet) -> None:
    child = fork(puppet, NS.PID | NS.TIME | NS.UTS)
    script = child.script()
    script.call(Sys.GETPID)
    assert script.perform() == [1]
    other = {link for link in LINKS if ns_name(link, child.pid) != ns_name(link, puppet.pid)}
    assert other == {"pid", "pid_for_children", "time", "time_for_children", "uts"}
    end(child)


def test_failed_fork(puppet: Puppet) -> None:
    for _ in range(100):  # more than there are slots
        assert puppet.fork(0x400000) == EINVAL  # CLONE_DETACHED


def test_who_has_ended_does_not_answer(puppet: Puppet) -> None:
    child = fork(puppet)
    child.kill()
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    script = child.script()
    script.call(Sys.GETPID)
    with pytest.raises(PuppetEndedError):
        script.perform()
    end(child)


def test_leaves_nothing() -> None:
    before = len(fds("self")), shared_mappings()
    with first_puppet() as puppet:
        end(fork(puppet))
    assert (len(fds("self")), shared_mappings()) == before
