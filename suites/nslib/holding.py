# SPDX-License-Identifier: GPL-2.0-only
"""Namespaces without tasks: one task can hold any number of them, each by an nsfs fd.

Cheaper than a task for each, which costs a fork of the whole test process. The functions act on
the calling task, so they are for Task.call() mostly.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from typing import NamedTuple

from .forking import end_child, pid_in_proc
from .ids import id_behind, id_of, ns_id, open_ns, owned
from .ioctls import PidfdGet, open_of_pidfd
from .namespaces import NS
from .sleeping import start_idle
from .syscalls import setns, unshare


class Held(NamedTuple):
    """A namespace that lives as long as `fd`, a number in the task that made it, is open."""

    id: int
    fd: int


def hold(kind: NS) -> Held:
    """Make a namespace of a type, held by nothing but the returned fd.

    The caller returns to where it was, for which it needs CAP_SYS_ADMIN over the namespace that it
    comes from (none for USER). A pid namespace gets no init.
    """
    if kind == NS.USER:
        return hold_together(kind)[kind]
    fd = _new_ns(kind)
    return Held(id_of(fd), fd)


def hold_together(kinds: NS) -> dict[NS, Held]:
    """Make one namespace of each type by one clone, see holding_together()."""
    pidfd = start_idle(kinds)
    try:
        process = pid_in_proc(pidfd)
        fds = {kind: open_ns(kind, process) for kind in NS if kind & kinds}
        return {kind: Held(id_of(fd), fd) for kind, fd in fds.items()}
    finally:
        end_child(pidfd)


def hold_fd(kind: NS) -> int:
    """As hold() of any type but USER, on kernels without NS_GET_ID too: the fd alone."""
    return _new_ns(kind)


def hold_each(kinds: Iterable[NS]) -> list[Held]:
    """Make one namespace of each type in turn, see hold(); their ids ascend."""
    return [hold(kind) for kind in kinds]


def hold_inactive() -> Held:
    """Make an ipc namespace that is on the kernel's trees, but inactive: the returned fd is no
    nsfs file, and pins it passively (see nslib.pins). The caller returns as in hold()."""
    with owned(open_ns(NS.IPC)) as origin:
        unshare(NS.IPC)
        try:
            return Held(ns_id(NS.IPC), os.open("/proc/sysvipc/msg", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            setns(origin, NS.IPC)


def ids_of(held: Iterable[Held]) -> list[int]:
    """The ids of held namespaces."""
    return [one.id for one in held]


def release(held: Iterable[Held]) -> None:
    """Close the fds of held namespaces, so that they are inactive when this returns."""
    for _, fd in held:
        os.close(fd)


@contextmanager
def holding(*kinds: NS) -> Iterator[list[Held]]:
    """Namespaces made as by hold_each(), inactive after the block."""
    held = hold_each(kinds)
    try:
        yield held
    finally:
        release(held)


@contextmanager
def holding_together(kinds: NS) -> Iterator[dict[NS, Held]]:
    """One namespace of each type, made by one clone and inactive after the block.

    A user namespace among them owns the others. The ids do not follow the order of the types.
    """
    held = hold_together(kinds)
    try:
        yield held
    finally:
        release(held.values())


@contextmanager
def inside_new(kind: NS) -> Iterator[int]:
    """The calling thread in a new namespace of a type, which nothing else uses; gives its id.

    For PID and TIME it is the one for the thread's children. The caller returns as in hold(); no
    such way leads out of a new user namespace.
    """
    with _away(kind):
        yield id_behind(_open_new(kind))


def _new_ns(kind: NS) -> int:
    with _away(kind):
        return _open_new(kind)


@contextmanager
def _away(kind: NS) -> Iterator[None]:
    # Return to a mount namespace is to its root directory.
    stay = chdir(".") if kind == NS.MNT else nullcontext()
    with stay, owned(open_ns(kind)) as origin:
        unshare(kind)
        try:
            yield
        finally:
            setns(origin, kind)


def _open_new(kind: NS) -> int:
    return _open_child_pid_ns() if kind == NS.PID else open_ns(kind.child_link)


def _open_child_pid_ns() -> int:
    # /proc/self/ns/pid_for_children gives ENOENT before Linux 7.1 (commit a3bdc23ba8ea) as long as
    # the namespace has no init.
    with owned(os.pidfd_open(os.getpid())) as pidfd:
        return open_of_pidfd(pidfd, PidfdGet.PID_FOR_CHILDREN)
