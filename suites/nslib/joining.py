# SPDX-License-Identifier: GPL-2.0-only
"""setns(2) by a task in place of the caller."""

from typing import Protocol

from .namespaces import NS
from .syscalls import errno_of, setns
from .tasks import Task


class HasPidfd(Protocol):
    """A process to join: a Task, or an Idle one."""

    @property
    def pidfd(self) -> int:
        """A pidfd in the calling process."""


def errno_of_joining(joiner: Task, target: HasPidfd, kinds: int = NS.UTS) -> int:
    """The errno with which `joiner` fails to join types of the target by its pidfd, 0 if not."""
    return joiner.call(_join, joiner.give(target.pidfd), kinds)


def errno_of_joining_file(joiner: Task, fd: int, kind: int = 0) -> int:
    """The errno with which `joiner` fails to join the namespace `fd` of the caller, 0 if not."""
    return joiner.call(_join, joiner.give(fd), kind)


def _join(fd: int, flags: int) -> int:
    return errno_of(setns, fd, flags)
