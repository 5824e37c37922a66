# SPDX-License-Identifier: GPL-2.0-only
"""Random operations, and a model of what keeps namespaces active that predicts which are visible.

The model is the rule of commit 3a18f809184b: a namespace is active as long as a process uses it, an
nsfs file or mount refers to it, or it owns an active one.
"""

import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from random import Random
from typing import TypeVar

import pytest
from nslib import (
    NS,
    Idle,
    Task,
    bind_mounted,
    errno_of_joining_file,
    id_of,
    ids_in,
    ns_id,
    open_id,
    open_ns,
    open_of_socket,
    open_owner,
    owned,
    setns,
    unshare,
    visible,
)

pytestmark = [
    pytest.mark.needs("active_refs", "id_handles"),
    pytest.mark.needs("user_ns", "uts_ns", "ipc_ns", "net_ns", "pid_ns", "cgroup_ns"),
]

# Not MNT: a new mount namespace would copy the bind mounts.
OWNED = (NS.UTS, NS.IPC, NS.NET, NS.PID, NS.CGROUP)
MOST_THINGS = 6
OPERATIONS = 60


T = TypeVar("T")


class World:
    """Processes, fds, mounts and sockets, and what they say about visibility."""

    def __init__(self, random: Random, resources: ExitStack) -> None:
        """`resources` ends what is there at the end."""
        self.random, self.resources = random, resources
        self.uses: Counter[int] = Counter()
        self.owner: dict[int, int] = {}
        self.kind: dict[int, NS] = {}
        self.processes: dict[Idle, list[int]] = {}
        self.zombies: dict[Idle, list[int]] = {}
        self.files: list[tuple[int, int]] = []
        self.mounts: list[tuple[ExitStack, int]] = []
        self.sockets: list[tuple[int, int]] = []
        self.queue = socket.socketpair()
        self.queued: list[int] = []
        self.joiner = resources.enter_context(Task(NS.UTS))
        self.joined = ns_id(NS.UTS, self.joiner.pid)
        self._appear(self.joined, NS.UTS, 0)
        self.uses[self.joined] += 1
        for end in self.queue:
            resources.enter_context(end)
        resources.callback(self._close_files)

    def expected(self) -> set[int]:
        """Ids of the namespaces that must be visible."""
        active = {one for one, uses in self.uses.items() if uses}
        return active | {self.owner[one] for one in active if self.owner[one]}

    def known(self) -> set[int]:
        """Ids of all namespaces there ever were."""
        return set(self.kind)

    def operate(self) -> str:
        """Do something that is possible; gives its name."""
        operations: list[Callable[[], bool]] = [
            self.start, self.start, self.kill, self.reap,
            self.open, self.open_by_id, self.open_owner, self.close, self.close,
            self.mount, self.unmount, self.make_socket, self.revive,
            self.send, self.receive, self.join, self.leave,
        ]  # fmt: skip
        while not (operation := self.random.choice(operations))():
            pass
        return operation.__name__

    def start(self) -> bool:
        """Start a process in new namespaces, which may include the user namespace."""
        if len(self.processes) + len(self.zombies) >= MOST_THINGS:
            return False
        kinds = NS.NONE
        for kind in self.random.sample(OWNED, 2):
            kinds |= kind
        kinds |= self.random.choice([NS.NONE, NS.USER, NS.USER])
        process = self.resources.enter_context(Idle(kinds))
        ids = ids_in(process.pid, kinds)
        for kind, one in ids.items():
            self._appear(one, kind, ids.get(NS.USER, 0) if kind != NS.USER else 0)
            self.uses[one] += 1
        self.processes[process] = list(ids.values())
        return True

    def kill(self) -> bool:
        """Leave a process a zombie: it keeps its user and pid namespace."""
        if not self.processes:
            return False
        process = self._any(list(self.processes))
        process.zombie()
        kept = []
        for one in self.processes.pop(process):
            if self.kind[one] in (NS.USER, NS.PID):
                kept.append(one)
            else:
                self.uses[one] -= 1
        self.zombies[process] = kept
        return True

    def reap(self) -> bool:
        """Reap a process, which may be a zombie already."""
        both = self.processes | self.zombies
        if not both:
            return False
        process = self._any(list(both))
        process.reap()
        self.uses.subtract(both[process])
        self.processes.pop(process, None)
        self.zombies.pop(process, None)
        return True

    def open(self) -> bool:
        """Open a namespace of a process."""
        if not self.processes:
            return False
        process = self._any(list(self.processes))
        one = self._any(self.processes[process])
        return self._hold(open_ns(self.kind[one], process.pid), one)

    def open_by_id(self) -> bool:
        """Open a visible namespace by its id."""
        seen = sorted(self.expected())
        if not seen:
            return False
        one = self._any(seen)
        return self._hold(open_id(one), one)

    def open_owner(self) -> bool:
        """Open the owner of an open namespace."""
        children = [(fd, one) for fd, one in self.files if self.owner[one]]
        if not children:
            return False
        fd, one = self._any(children)
        return self._hold(open_owner(fd), self.owner[one])

    def close(self) -> bool:
        """Close an nsfs fd."""
        if not self.files:
            return False
        fd, one = self._take(self.files)
        os.close(fd)
        self.uses[one] -= 1
        return True

    def mount(self) -> bool:
        """Bind-mount an open namespace."""
        if not self.files or len(self.mounts) >= MOST_THINGS:
            return False
        fd, one = self._any(self.files)
        stack = self.resources.enter_context(ExitStack())
        stack.enter_context(bind_mounted(fd))
        self.mounts.append((stack, one))
        self.uses[one] += 1
        return True

    def unmount(self) -> bool:
        """Remove a bind mount."""
        if not self.mounts:
            return False
        stack, one = self._take(self.mounts)
        stack.close()
        self.uses[one] -= 1
        return True

    def make_socket(self) -> bool:
        """Make a socket in an open network namespace; it keeps nothing visible."""
        nets = [(fd, one) for fd, one in self.files if self.kind[one] == NS.NET]
        if not nets:
            return False
        fd, one = self._any(nets)
        with owned(open_ns(NS.NET)) as home:
            setns(fd, NS.NET)
            self.sockets.append((self.resources.enter_context(socket.socket()).fileno(), one))
            setns(home, NS.NET)
        return True

    def revive(self) -> bool:
        """Open the network namespace of a socket, which may be invisible."""
        if not self.sockets:
            return False
        sock, one = self._any(self.sockets)
        return self._hold(open_of_socket(sock), one)

    def send(self) -> bool:
        """Send an nsfs fd into a queue, and close it here."""
        if not self.files or len(self.queued) >= MOST_THINGS:
            return False
        fd, one = self._take(self.files)
        socket.send_fds(self.queue[0], [b"."], [fd])
        os.close(fd)
        self.queued.append(one)
        return True

    def receive(self) -> bool:
        """Take the oldest fd from the queue."""
        if not self.queued:
            return False
        _, [fd], _, _ = socket.recv_fds(self.queue[1], 1, 1)
        self.files.append((fd, self.queued.pop(0)))
        return True

    def join(self) -> bool:
        """Have a task move to an open uts namespace."""
        uts = [(fd, one) for fd, one in self.files if self.kind[one] == NS.UTS]
        if not uts:
            return False
        fd, one = self._any(uts)
        assert errno_of_joining_file(self.joiner, fd) == 0
        self._move_to(one)
        return True

    def leave(self) -> bool:
        """Have that task move to a new uts namespace."""
        self.joiner.call(unshare, NS.UTS)
        one = ns_id(NS.UTS, self.joiner.pid)
        self._appear(one, NS.UTS, 0)
        self._move_to(one)
        return True

    def _move_to(self, one: int) -> None:
        self.uses[self.joined] -= 1
        self.uses[one] += 1
        self.joined = one

    def _appear(self, one: int, kind: NS, owner: int) -> None:
        assert one not in self.kind
        self.kind[one], self.owner[one] = kind, owner

    def _hold(self, fd: int, one: int) -> bool:
        self.files.append((fd, one))
        self.uses[one] += 1
        assert id_of(fd) == one
        return True

    def _any(self, things: list[T]) -> T:
        return self.random.choice(things)

    def _take(self, things: list[T]) -> T:
        return things.pop(self.random.randrange(len(things)))

    def _close_files(self) -> None:
        for fd, _ in self.files:
            os.close(fd)


@pytest.mark.behaviour("REG-12")
@pytest.mark.parametrize("seed", range(2))
def test_model_predicts_what_is_visible(seed: int) -> None:
    with ExitStack() as resources:
        world = World(Random(seed), resources)  # noqa: S311 - repeatable on purpose
        history = []
        for _ in range(OPERATIONS):
            history.append(world.operate())
            assert visible(*world.known()) == world.expected(), history
    assert visible(*world.known()) == set()
