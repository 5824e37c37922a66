# SPDX-License-Identifier: GPL-2.0-only
"""How child processes end, seen through their pidfds."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .waiting import scaled


class ExitStatus(NamedTuple):
    """How a child ended: os.CLD_EXITED with an exit status, or os.CLD_KILLED with a signal."""

    code: int
    status: int


def has_ended(pidfd: int, seconds: float = 0) -> bool:
    """Whether the process behind `pidfd` has ended, or does within `seconds` (scaled)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(scaled(seconds) * 1000))


def collect(pidfd: int, *, reap: bool = True) -> ExitStatus:
    """How the child behind `pidfd` ended, which it has; it is reaped, or left a zombie."""
    how = os.WEXITED | os.WNOHANG | (0 if reap else os.WNOWAIT)
    result = os.waitid(os.P_PIDFD, pidfd, how)
    if result is None:
        raise ChildProcessError(f"the child behind pidfd {pidfd} has not ended")
    return ExitStatus(result.si_code, result.si_status)


@contextmanager
def autoreaping() -> Iterator[None]:
    """For the block, the kernel reaps the children of the calling process."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
