# SPDX-License-Identifier: GPL-2.0-only
"""A child that was made ahead of time, to become the first Task that a test asks for.

After a fork each page that parent or child writes to is copied first, which takes a slow guest
longer than most tests take otherwise. The harness has that done while nothing else is. Nobody has
to: without prepare() every Task is a fork of its own.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .exits import has_ended
from .forking import end_child
from .namespaces import NS

# What clone3(2) can do and unshare(2) cannot: put the process itself into a new one.
_ONLY_AT_BIRTH = NS.PID | NS.TIME


@dataclass(frozen=True, slots=True)
class Standby:
    """A child that waits for requests: our end of its channel, and its pidfd.

    It got `inheritance`, which is what `inherited` returned then.
    """

    channel: int
    pidfd: int
    inheritance: object
    inherited: Callable[[], object]


_waiting: Standby | None = None


def prepare(start: Callable[[], tuple[int, int]], inherited: Callable[[], object]) -> None:
    """Make the child by `start`, which returns our end of its channel, and its pidfd.

    `inherited` returns what a child gets from this process, besides memory and fds, for comparison.
    """
    global _waiting
    dismiss()
    inheritance = inherited()
    _waiting = Standby(*start(), inheritance, inherited)


def is_waiting() -> bool:
    """Whether there is a child that nobody has taken, or killed."""
    return _waiting is not None and not has_ended(_waiting.pidfd)


def waiting() -> Standby | None:
    """The child that nobody has taken, if there is one and it is what a fork made now would be."""
    if _waiting is None or has_ended(_waiting.pidfd):
        return None
    if _waiting.inherited() != _waiting.inheritance:
        return None
    # A signal to all processes may have stopped it.
    signal.pidfd_send_signal(_waiting.pidfd, signal.SIGCONT)
    return _waiting


def take(namespaces: NS) -> tuple[int, int] | None:
    """The channel and the pidfd of the child that waits, which is the caller's then; None if it
    cannot go into new `namespaces` any more."""
    global _waiting
    if namespaces & _ONLY_AT_BIRTH or not (taken := waiting()):
        return None
    _waiting = None
    return taken.channel, taken.pidfd


def dismiss() -> None:
    """End the child if nobody has taken it."""
    global _waiting
    if _waiting is not None:
        idle, _waiting = _waiting, None
        os.close(idle.channel)
        with suppress(ChildProcessError):  # SIGCHLD is ignored
            end_child(idle.pidfd)


def _forget() -> None:
    """In a child of the process that made it, which must not use the channel as well."""
    global _waiting
    _waiting = None


os.register_at_fork(after_in_child=_forget)
