# SPDX-License-Identifier: GPL-2.0-only
"""The operations on descriptors: nsfs files and sockets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from errno import EACCES, EINVAL, ENOENT, EPERM
from typing import Self

from ..namespaces import LINKS, NS
from .listings import HANDLE, handle_errno
from .operations import Operation, pick
from .powers import is_capable, may_access
from .worlds import File, Task, World

MOST_FILES = 6
MOST_IN_FLIGHT = 3


@dataclass(frozen=True, slots=True)
class Opening(Operation):
    """An operation that gives the task a new descriptor."""

    def resolve(self, world: World) -> Self | None:
        return self._among([one for one in world.living() if len(one.files) < MOST_FILES])

    def found(self, world: World) -> File | int:
        """What the descriptor is of, or the errno."""
        raise NotImplementedError

    def apply(self, world: World) -> int:
        found = self.found(world)
        if isinstance(found, int):
            return found
        task = self.doer(world)
        task.files[task.free_fd()] = found
        return 0

    def describe(self, world: World) -> str:
        return f"fd {self.doer(world).free_fd()} = {self.call(world)} by t{self.task}"

    def call(self, world: World) -> str:
        """The call that gives it, in words."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Open(Opening):
    """open(2) of /proc/PID/ns/LINK of the task `target`, which is one of LINKS."""

    target: int = 0
    link: int = 0

    def resolve(self, world: World) -> Self | None:
        targets = [one.number for one in world.unreaped()]
        chosen = Opening.resolve(self, world)
        link = pick(self.link, range(len(LINKS)))
        return chosen and replace(chosen, target=pick(self.target, targets), link=link)

    def found(self, world: World) -> File | int:
        # fs/proc/namespaces.c, proc_ns_get_link
        target, name = world.tasks[self.target], LINKS[self.link]
        if not may_access(world, self.doer(world), target):
            return EACCES
        one = target.link(name)
        if one is None or (name == "pid_for_children" and not world.opens_children_of(one)):
            return ENOENT
        return File(one)

    def call(self, _world: World) -> str:
        return f"open(/proc/t{self.target}/ns/{LINKS[self.link]})"


@dataclass(frozen=True, slots=True)
class OpenHandle(Opening):
    """open_by_handle_at(2) of the id of the namespace with the number `ns`."""

    rule = HANDLE

    ns: int = 0

    def resolve(self, world: World) -> Self | None:
        chosen = Opening.resolve(self, world)
        return chosen and replace(chosen, ns=pick(self.ns, range(len(world.namespaces))))

    def found(self, world: World) -> File | int:
        one = world.namespaces[self.ns]
        return handle_errno(world, self.doer(world), one) or File(one)

    def call(self, world: World) -> str:
        return f"open_by_handle_at({world.namespaces[self.ns].name})"


@dataclass(frozen=True, slots=True)
class MakeSocket(Opening):
    """socket(2) in the task's net namespace."""

    def found(self, world: World) -> File | int:
        return File(self.doer(world).proxy["net"], is_socket=True)

    def call(self, _world: World) -> str:
        return "socket()"


@dataclass(frozen=True, slots=True)
class Receive(Opening):
    """recvmsg(2): the oldest descriptor in the queue."""

    def resolve(self, world: World) -> Self | None:
        return Opening.resolve(self, world) if world.queue else None

    def found(self, world: World) -> File | int:
        return world.queue.pop(0)

    def call(self, _world: World) -> str:
        return "recvmsg()"


@dataclass(frozen=True, slots=True)
class WithFile(Operation):
    """An operation on a descriptor of the task."""

    fd: int = 0

    def resolve(self, world: World) -> Self | None:
        return self._on(world, world.living())

    def _on(self, world: World, some: Sequence[Task]) -> Self | None:
        able = [one for one in some if self._fds(one)]
        chosen = self._among(able)
        return chosen and replace(chosen, fd=pick(self.fd, self._fds(chosen.doer(world))))

    def _fds(self, task: Task) -> list[int]:
        return sorted(fd for fd, file in task.files.items() if self.takes(file))

    def takes(self, _file: File) -> bool:
        """Whether it can be done with a file."""
        return True

    def file(self, world: World) -> File:
        """What the descriptor is of."""
        return self.doer(world).files[self.fd]


def naming(operation: WithFile, world: World) -> str:
    """A descriptor and what it is of."""
    file = operation.file(world)
    return f"fd {operation.fd}, {'socket in ' if file.is_socket else ''}{file.of.name}"


@dataclass(frozen=True, slots=True)
class Close(WithFile):
    """close(2)."""

    def apply(self, world: World) -> int:
        del self.doer(world).files[self.fd]
        return 0

    def describe(self, world: World) -> str:
        return f"close({naming(self, world)}) by t{self.task}"


@dataclass(frozen=True, slots=True)
class Send(WithFile):
    """sendmsg(2): the descriptor lies in a queue of all tasks, and is closed here."""

    def resolve(self, world: World) -> Self | None:
        return WithFile.resolve(self, world) if len(world.queue) < MOST_IN_FLIGHT else None

    def apply(self, world: World) -> int:
        world.queue.append(self.doer(world).files.pop(self.fd))
        return 0

    def describe(self, world: World) -> str:
        return f"sendmsg({naming(self, world)}) and close by t{self.task}"


@dataclass(frozen=True, slots=True)
class OpenRelated(WithFile, Opening):
    """An ioctl on a descriptor gives another one."""

    def resolve(self, world: World) -> Self | None:
        return self._on(world, [one for one in world.living() if len(one.files) < MOST_FILES])

    def call(self, world: World) -> str:
        return f"{type(self).__name__}({naming(self, world)})"


@dataclass(frozen=True, slots=True)
class SocketNs(OpenRelated):
    """SIOCGSKNS: the net namespace of a socket, which may be inactive (net/socket.c, sock_ioctl:
    with CAP_NET_ADMIN over it)."""

    def takes(self, file: File) -> bool:
        return file.is_socket

    def found(self, world: World) -> File | int:
        one = self.file(world).of
        return File(one) if is_capable(self.doer(world), one.owner) else EPERM


@dataclass(frozen=True, slots=True)
class Owner(OpenRelated):
    """NS_GET_USERNS: the owner, if the caller's user namespace is it or above it (
    kernel/user_namespace.c, ns_get_owner)."""

    def takes(self, file: File) -> bool:
        return not file.is_socket

    def found(self, world: World) -> File | int:
        owner = self.file(world).of.owner
        if owner is None or self.doer(world).user not in owner.upwards():
            return EPERM
        return File(owner)


@dataclass(frozen=True, slots=True)
class Parent(Owner):
    """NS_GET_PARENT: of a pid namespace if the caller's is it or above it, which may make it active
    again (kernel/pid_namespace.c, pidns_get_parent); of a user namespace its owner."""

    def found(self, world: World) -> File | int:
        one = self.file(world).of
        if one.kind == NS.USER:
            # Not super(): dataclasses with slots are other classes than their methods know.
            return Owner.found(self, world)
        if one.kind != NS.PID:
            return EINVAL
        if one.parent is None or self.doer(world).pid not in one.parent.upwards():
            return EPERM
        return File(one.parent)
