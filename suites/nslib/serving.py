# SPDX-License-Identifier: GPL-2.0-only
"""The child's half of a Task: it is made here, and here it does what it is told until the end.

A request is the pickle of (function, arguments): the function by its name, since the child is a
fork that has loaded the same modules. The answer is the pickle of the result or of an exception.
"""

import gc
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import standby
from .caps import become, map_ids
from .channel import Channel, channel_pair, close_all_but
from .forking import end_child, fork_into, pid_in_proc
from .namespaces import NS
from .syscalls import MS_PRIVATE, MS_REC, PR_SET_PDEATHSIG, mount, prctl, unshare


class RemoteError(Exception):
    """A call in a task raised something else than OSError; holds the traceback's text."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What kind of task to make: its new namespaces, its user and capabilities once it is in them
    (None: as its creator, or all within a new user namespace), the fds that it inherits."""

    namespaces: NS = NS.NONE
    uid: int | None = None
    caps: int | None = None
    keep_fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HandOver:
    """A result that comes with fds: they are sent along and closed on this side."""

    value: object
    fds: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Raised:
    """An answer in place of a result: what the call raised."""

    error: Exception


def start_task(spec: TaskSpec) -> tuple[int, int]:
    """Make a task that waits for requests; returns our end of its channel, and its pidfd."""
    ready = None if spec.keep_fds else standby.take(spec.namespaces)
    ours, pidfd = ready or _fork(spec)
    try:
        if ready and spec.namespaces:
            _request_unshare(ours, spec.namespaces)
        if spec.namespaces & NS.USER:
            map_ids(pid_in_proc(pidfd))
    except BaseException:
        os.close(ours)
        end_child(pidfd)
        raise
    return ours, pidfd


def stand_by(inherited: Callable[[], object]) -> None:
    """Make ahead of time the child that the next task of this process can be; for `inherited` see
    standby.prepare()."""
    standby.prepare(lambda: _fork(TaskSpec()), inherited)


def exercise() -> None:
    """Let this process and the child that stands by have gone through what making a task of it
    takes: their copies of the memory for that are made now."""
    if waiting := standby.waiting():
        pid_in_proc(waiting.pidfd)
        _request_unshare(waiting.channel, NS.NONE)


def _fork(spec: TaskSpec) -> tuple[int, int]:
    ours, theirs = channel_pair()
    try:
        pid, pidfd = fork_into(spec.namespaces)
        if pid == 0:
            _serve(theirs, spec.keep_fds)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return ours, pidfd


def _request_unshare(fd: int, namespaces: NS) -> None:
    channel = Channel(os.dup(fd))
    try:
        channel.limit_waiting()
        channel.send(pickle.dumps((unshare, (namespaces,), {})))
        unpickled(channel.receive()[0])
    finally:
        channel.close()


def settle(spec: TaskSpec) -> None:
    """First request to every task: finish what only the task itself can do."""
    if spec.namespaces & NS.MNT:
        # Mounts made by the task must not propagate to its creator.
        mount("", "/", flags=MS_REC | MS_PRIVATE)
    become(spec.uid, spec.caps)
    # Once more: a change of credentials clears it (kernel/cred.c, commit_creds).
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(fd: int, keep_fds: tuple[int, ...]) -> NoReturn:
    """Answer requests until the other side is gone; never returns into the code that forked."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Inherited nsfs fds would keep namespaces active that the test believes closed.
        close_all_but((fd, *keep_fds))
        gc.disable()  # a collection would copy most of the shared memory
        channel = Channel(fd)
        while True:
            _answer(channel, *channel.receive())
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _answer(channel: Channel, request: bytes, fds: list[int]) -> None:
    result = _perform(request, fds)
    sent = result.fds if isinstance(result, HandOver) else []
    value = result.value if isinstance(result, HandOver) else result
    channel.send(_pickled(value), sent)
    for fd in sent:
        os.close(fd)


def _perform(request: bytes, fds: list[int]) -> object:
    try:
        function: Callable[..., object]
        function, args, kwargs = pickle.loads(request)  # noqa: S301 (from our own parent)
        return function(*fds, *args, **kwargs)
    except OSError as error:
        return Raised(error)
    except Exception:
        return Raised(RemoteError(traceback.format_exc()))


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:
        return pickle.dumps(Raised(RemoteError(f"cannot send {value!r}: {error}")))


def unpickled(answer: bytes) -> Any:
    """The result in an answer; raises what the call raised."""
    value = pickle.loads(answer)  # noqa: S301 (from our own child)
    if isinstance(value, Raised):
        raise value.error
    return value
