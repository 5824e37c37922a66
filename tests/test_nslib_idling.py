# SPDX-License-Identifier: GPL-2.0-only
"""Processes that share memory with the test and do nothing."""

import errno
import os

import pytest
from nslib import CLONE_FS, NS, Idle, Task, errno_of_joining, ns_name, ns_names

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")


@needs_root
class TestIdle:
    def test_is_in_its_new_namespaces_only(self) -> None:
        own = ns_names()
        with Idle(NS.UTS | NS.IPC) as child:
            names = ns_names(child.pid)
        assert {link for link in own if own[link] != names[link]} == {"uts", "ipc"}

    def test_holds_no_fd(self) -> None:
        reader, writer = os.pipe()
        with Idle(), os.fdopen(reader) as pipe:
            os.close(writer)
            assert pipe.read() == ""

    def test_zombie_keeps_user_and_pid_namespace(self) -> None:
        with Idle(NS.UTS) as child:
            child.zombie()
            assert ns_names(child.pid).keys() == {"user", "pid"}

    def test_is_gone_afterwards(self) -> None:
        with Idle() as child:
            pass
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)

    def test_refusal_is_an_error(self) -> None:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            Idle(NS.USER | CLONE_FS)
        assert caught.value.errno == errno.EINVAL

    def test_can_be_joined(self) -> None:
        with Idle(NS.UTS) as child, Task() as joiner:
            assert errno_of_joining(joiner, child) == 0
            assert ns_name(NS.UTS, joiner.pid) == ns_name(NS.UTS, child.pid)
            child.reap()
            assert errno_of_joining(joiner, child) == errno.ESRCH
