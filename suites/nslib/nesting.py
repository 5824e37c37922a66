# SPDX-License-Identifier: GPL-2.0-only
"""User namespaces one in the other: what the innermost owns keeps all of them visible."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .ids import ns_id
from .namespaces import NS
from .syscalls import unshare
from .tasks import Task


class Nest(NamedTuple):
    """A task in namespaces that the innermost of nested user namespaces owns.

    `users` are the ids of the user namespaces, the outermost first, `owned` is what the last of
    them owns, by type.
    """

    task: Task
    users: list[int]
    owned: dict[NS, int]

    @property
    def ids(self) -> set[int]:
        """All of them."""
        return {*self.users, *self.owned.values()}


def descend(levels: int = 1) -> list[int]:
    """Enter new user namespaces, one in the other, as root of each; their ids, the outermost
    first. For a Task, as no way leads back."""
    return [_enter_user_ns() for _ in range(levels)]


def _enter_user_ns() -> int:
    uid, gid = os.geteuid(), os.getegid()
    unshare(NS.USER)
    # A creator without a mapping cannot make the next one (kernel/user_namespace.c).
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        Path("/proc/self", name).write_text(content)
    return ns_id(NS.USER)


@contextmanager
def nest(kinds: NS = NS.NET, levels: int = 3) -> Iterator[Nest]:
    """A task in new namespaces of some types below `levels` nested user namespaces."""
    with Task() as task:
        users = task.call(descend, levels)
        task.call(unshare, kinds)
        yield Nest(task, users, {kind: ns_id(kind, task.pid) for kind in kinds})
