# SPDX-License-Identifier: GPL-2.0-only
"""What operations have in common, and those of tasks: one system call each, or two.

Operands are numbers. One that names nothing possible stands for something else that is (resolve),
so that each part of a sequence is a sequence too; an operation with no possible operand is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from ..namespaces import NS
from .joining import CREATION, creation_errno, fork_errno
from .rules import Rule
from .worlds import NOBODY_UID, Task, World

MOST_TASKS = 6

ACCESS = Rule(
    "access",
    "What is asked of a task or a file is allowed with access to the task, or the capability over "
    "the namespace that owns it.",
    "fs/proc/namespaces.c, proc_ns_get_link; fs/nsfs.c, ns_get_owner; net/socket.c, sock_ioctl",
    ("IOC-03", "IOC-06", "IOC-26"),
)


def pick(value: int, possible: Sequence[int]) -> int:
    """One of the possible operands: `value` if it is among them."""
    return value if value in possible else possible[value % len(possible)]


def names_of(kinds: NS) -> str:
    """As in "USER|NET"; 0 for none."""
    return "|".join(str(kind.name) for kind in NS if kind & kinds) or "0"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that the task with the number `task` does."""

    rule: ClassVar[Rule] = ACCESS

    task: int

    def resolve(self, world: World) -> Self | None:
        """The operation with operands that exist; None if there are none."""
        return self._among(world.living())

    def _among(self, some: Sequence[Task]) -> Self | None:
        if not some:
            return None
        return replace(self, task=pick(self.task, [one.number for one in some]))

    def doer(self, world: World) -> Task:
        """The task."""
        return world.tasks[self.task]

    def apply(self, world: World) -> int:
        """Change the world; returns the errno of the call, which changes nothing then."""
        raise NotImplementedError

    def describe(self, world: World) -> str:
        """What it is, in a world to which it has not been applied."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Clone(Operation):
    """clone3(2): the task makes a child in new namespaces `kinds`; one in a new user namespace maps
    its user to root there."""

    rule = CREATION

    kinds: NS = NS.NONE

    def resolve(self, world: World) -> Self | None:
        return Operation.resolve(self, world) if len(world.unreaped()) < MOST_TASKS else None

    def apply(self, world: World) -> int:
        parent = self.doer(world)
        if errno := fork_errno(world, parent, self.kinds):
            world.has_burnt = True
            return errno
        new = world.create(parent, self.kinds)
        world.fork(parent, new)
        return 0

    def describe(self, world: World) -> str:
        return f"t{len(world.tasks)} = clone({names_of(self.kinds)}) by t{self.task}"


@dataclass(frozen=True, slots=True)
class Unshare(Operation):
    """unshare(2) of namespaces `kinds`."""

    rule = CREATION

    kinds: NS = NS.UTS

    def apply(self, world: World) -> int:
        task = self.doer(world)
        if errno := creation_errno(task, self.kinds):
            world.has_burnt = True
            return errno
        world.enter(task, world.create(task, self.kinds))
        return 0

    def describe(self, _world: World) -> str:
        return f"unshare({names_of(self.kinds)}) by t{self.task}"


@dataclass(frozen=True, slots=True)
class Exit(Operation):
    """The task is killed, and its pid namespace with it if it is init there; task 0 never."""

    def resolve(self, world: World) -> Self | None:
        return self._among([one for one in world.living() if one.number])

    def apply(self, world: World) -> int:
        world.end(self.doer(world))
        return 0

    def describe(self, _world: World) -> str:
        return f"t{self.task} exits"


@dataclass(frozen=True, slots=True)
class Reap(Operation):
    """The parent of a zombie waits for it."""

    def resolve(self, world: World) -> Self | None:
        return self._among([one for one in world.unreaped() if one.is_zombie])

    def apply(self, world: World) -> int:
        self.doer(world).is_reaped = True
        return 0

    def describe(self, _world: World) -> str:
        return f"t{self.task} is reaped"


@dataclass(frozen=True, slots=True)
class Drop(Operation):
    """capset(2): the task gives up its capabilities; task 0 never."""

    def resolve(self, world: World) -> Self | None:
        return self._among([one for one in world.living() if one.number and one.has_caps])

    def apply(self, world: World) -> int:
        self.doer(world).has_caps = False
        return 0

    def describe(self, _world: World) -> str:
        return f"capset(no capabilities) by t{self.task}"


@dataclass(frozen=True, slots=True)
class BecomeNobody(Operation):
    """setresuid(2): a root in the initial user namespace becomes an unprivileged user, who can be
    dumped; task 0 never."""

    def resolve(self, world: World) -> Self | None:
        roots = [one for one in world.living() if one.number and one.has_caps]
        return self._among([one for one in roots if one.user is world.initial_user])

    def apply(self, world: World) -> int:
        task = self.doer(world)
        task.uid, task.has_caps, task.is_dumpable = NOBODY_UID, False, True
        return 0

    def describe(self, _world: World) -> str:
        return f"setresuid({NOBODY_UID}) by t{self.task}"
