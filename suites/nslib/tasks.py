# SPDX-License-Identifier: GPL-2.0-only
"""Tasks: processes that live in chosen namespaces and do what the test tells them."""

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, Self, TypeVar

from .channel import ANSWER_SECONDS, Channel
from .exits import ExitStatus, collect, has_ended
from .forking import pid_in_proc
from .namespaces import NS
from .serving import HandOver, TaskSpec, settle, start_task, unpickled

P = ParamSpec("P")
R = TypeVar("R")


class TaskEndedError(Exception):
    """The task ended before it answered."""


class TaskStuckError(TimeoutError):
    """The task did not answer, or did not end, in time."""


class Task:
    """A child process in new `namespaces` (NS.NONE: in those of its creator).

    With `uid` and `caps` it becomes that user, keeping these capabilities, after its namespaces
    exist; in a new user namespace the ids that exist outside are mapped to themselves. In a new pid
    namespace it is init. It inherits no fd but `keep_fds`. It ends with the `with` block, and with
    the process that made it. OSError of clone3 or of the settling is raised as in any call.
    """

    def __init__(
        self,
        namespaces: NS = NS.NONE,
        *,
        uid: int | None = None,
        caps: int | None = None,
        keep_fds: Iterable[int] = (),
        creator: "Task | None" = None,
    ) -> None:
        """Start the task, as a child of this process or of the task `creator` (see spawn)."""
        spec = TaskSpec(namespaces, uid, caps, tuple(keep_fds))
        self._creator = creator
        self._nested: list[Task] = []
        self._exit: ExitStatus | None = None
        self._reaped = False
        if creator is None:
            fd, self.pidfd = start_task(spec)
            self._pidfd_at_creator = self.pidfd
        else:
            self._pidfd_at_creator, (fd, self.pidfd) = creator._request(_start_nested, (spec,))
        self._channel = Channel(fd)
        self._channel.limit_waiting()
        self.pid = pid_in_proc(self.pidfd)
        try:
            self.call(settle, spec)
        except BaseException:
            self.close()
            raise

    def spawn(
        self,
        namespaces: NS = NS.NONE,
        *,
        uid: int | None = None,
        caps: int | None = None,
        keep_fds: Iterable[int] = (),
    ) -> "Task":
        """A task that is a child of this one; `keep_fds` are numbers in this one."""
        task = Task(namespaces, uid=uid, caps=caps, keep_fds=keep_fds, creator=self)
        self._nested.append(task)
        return task

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in the task and return its result, or raise its OSError.

        The function must have a name in a loaded module (no lambda, no closure); arguments and
        result are pickled. Any other exception comes as RemoteError with its traceback.
        """
        result: R = self._request(function, args, kwargs)[0]
        return result

    def begin(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the task run a function that does not return, such as one that calls exec.

        Returns at once. No calls are possible afterwards; the task ends like any other.
        """
        self._channel.send(pickle.dumps((function, args, kwargs)))

    def fetch(self, function: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
        """Run a function that returns an fd; the fd moves here, to be closed by the caller."""
        return self._request(_hand_over, (function, args, kwargs))[1][0]

    def give(self, fd: int) -> int:
        """Send the task a copy of an fd; returns its number there."""
        number: int = self._request(_accept, fds=[fd])[0]
        return number

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the task a signal; returns at once."""
        signal.pidfd_send_signal(self.pidfd, number)

    def wait(self, *, reap: bool = True) -> ExitStatus:
        """Wait until the task has ended by itself, and reap it (or leave it a zombie)."""
        if self._reaped:
            raise ValueError("the task is reaped already")
        if not has_ended(self.pidfd, ANSWER_SECONDS):
            raise TaskStuckError(f"task {self.pid} does not end")
        if self._creator is None:
            self._exit = collect(self.pidfd, reap=reap)
        elif self._creator._exit is None:
            self._exit = self._creator.call(_collect_nested, self._pidfd_at_creator, reap)
        else:  # the task has a new parent, which reaps it
            self._exit = ExitStatus(os.CLD_KILLED, signal.SIGKILL)
        if reap:
            self._forget()
        return self._exit

    def zombie(self) -> ExitStatus:
        """Kill the task and leave it a zombie: nothing but its user and pid namespace is held."""
        self.kill()
        return self.wait(reap=False)

    def reap(self) -> ExitStatus:
        """Kill the task, unless it is a zombie already, and reap it; nested tasks end first."""
        for task in reversed(self._nested):
            task.close()
        # A nested task whose creator is dead may have been reaped by its new parent.
        with suppress(ProcessLookupError):
            self.kill()
        return self.wait()

    def close(self) -> None:
        """End and reap the task if that has not been done yet."""
        if not self._reaped:
            self.reap()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        fds: Sequence[int] = (),
    ) -> tuple[Any, list[int]]:
        """Make a call that can carry fds both ways; those sent are its first arguments."""
        try:
            self._channel.send(pickle.dumps((function, args, kwargs or {})), fds)
            answer, received = self._channel.receive()
        except (EOFError, ConnectionError):
            raise TaskEndedError(f"task {self.pid} ended in {function.__name__}()") from None
        except TimeoutError:
            raise TaskStuckError(f"task {self.pid} is stuck in {function.__name__}()") from None
        return unpickled(answer), received

    def _forget(self) -> None:
        """Drop what is held of a reaped task: a pidfd would pin its pid namespace."""
        self._reaped = True
        self._channel.close()
        os.close(self.pidfd)


def _collect_nested(pidfd: int, reap: bool) -> ExitStatus:
    """As collect(), in a creator that is a task, whose own pidfd is no longer needed then."""
    status = collect(pidfd, reap=reap)
    if reap:
        os.close(pidfd)
    return status


def _start_nested(spec: TaskSpec) -> HandOver:
    """In the creator: start a task for the test, which gets its channel and a pidfd of its own."""
    fd, pidfd = start_task(spec)
    return HandOver(pidfd, [fd, os.dup(pidfd)])


def _hand_over(function: Callable[..., int], args: Any, kwargs: Any) -> HandOver:
    return HandOver(None, [function(*args, **kwargs)])


def _accept(fd: int) -> int:
    return fd
