# SPDX-License-Identifier: GPL-2.0-only
"""Limits that make a call fail at a chosen point, or that show what a call has left behind."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .namespaces import NS


@contextmanager
def no_more_fds() -> Iterator[None]:
    """For the block the calling process gets no new fd, EMFILE instead; those it has stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def limit_namespaces(kind: NS, number: int) -> None:
    """Let the caller's user namespace have up to `number` namespaces of a type (namespaces(7)).

    One more fails with ENOSPC. A namespace counts until its memory is freed, so that the limit
    tells of references that were not dropped.
    """
    Path(f"/proc/sys/user/max_{kind.link}_namespaces").write_text(f"{number}")
