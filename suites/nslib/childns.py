# SPDX-License-Identifier: GPL-2.0-only
"""The pid namespace of children to come: changed for a block, after which all is as before.

unshare(2) and setns(2) change nothing else of the caller, so that a test can do this itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from .ids import open_ns, owned
from .namespaces import NS
from .syscalls import setns, unshare


@contextmanager
def children_in(fd: int) -> Iterator[None]:
    """The caller's children are born in the pid namespace `fd` (or of the task behind a pidfd)."""
    with owned(open_ns(NS.PID)) as own:
        setns(fd, NS.PID)
        try:
            yield
        finally:
            setns(own, NS.PID)


@contextmanager
def children_in_new_pid_ns() -> Iterator[None]:
    """The caller's children are born in a new pid namespace, of which the first is init."""
    with owned(open_ns(NS.PID)) as own:
        unshare(NS.PID)
        try:
            yield
        finally:
            setns(own, NS.PID)
