# SPDX-License-Identifier: GPL-2.0-only
"""The operations that bring namespaces to places, and tasks into namespaces: mount(2), setns(2)."""

from dataclasses import dataclass, replace
from errno import EINVAL, EPERM
from typing import Self

from ..namespaces import NS
from .descriptors import WithFile, naming
from .joining import JOIN, SETNS, join_errno, joined, links_of, setns_errno
from .operations import Operation, names_of, pick
from .powers import is_capable
from .worlds import File, Mount, Task, World

PLACES = 3
"""How many files there are that a namespace can be mounted on."""


@dataclass(frozen=True, slots=True)
class Bind(WithFile):
    """mount(2) of an nsfs file on a place in the task's mount namespace (MS_BIND)."""

    place: int = 0

    def takes(self, file: File) -> bool:
        return not file.is_socket

    def resolve(self, world: World) -> Self | None:
        able = [one for one in world.living() if self._places(world, one)]
        chosen = self._on(world, able)
        if chosen is None:
            return None
        return replace(chosen, place=pick(self.place, self._places(world, chosen.doer(world))))

    def _places(self, world: World, task: Task) -> list[int]:
        return [place for place in range(PLACES) if place not in world.mounts[task.proxy["mnt"]]]

    def apply(self, world: World) -> int:
        one, mnt_ns = self.file(world).of, self.doer(world).proxy["mnt"]
        if not is_capable(self.doer(world), mnt_ns.owner):
            return EPERM
        # fs/namespace.c, mnt_ns_loop: a mount namespace in itself or in a younger one would never
        # be freed.
        if one.kind == NS.MNT and mnt_ns.id >= one.id:
            return EINVAL
        world.mounts[mnt_ns][self.place] = Mount(one)
        return 0

    def describe(self, world: World) -> str:
        return f"mount({naming(self, world)}, place {self.place}) by t{self.task}"


@dataclass(frozen=True, slots=True)
class Unmount(Operation):
    """umount(2) of a place."""

    place: int = 0

    def resolve(self, world: World) -> Self | None:
        chosen = self._among([one for one in world.living() if self._places(world, one)])
        if chosen is None:
            return None
        return replace(chosen, place=pick(self.place, self._places(world, chosen.doer(world))))

    def _places(self, world: World, task: Task) -> list[int]:
        return sorted(world.mounts[task.proxy["mnt"]])

    def apply(self, world: World) -> int:
        mnt_ns = self.doer(world).proxy["mnt"]
        if not is_capable(self.doer(world), mnt_ns.owner):
            return EPERM
        if world.mounts[mnt_ns][self.place].is_locked:
            return EINVAL
        del world.mounts[mnt_ns][self.place]
        return 0

    def describe(self, world: World) -> str:
        one = world.mounts[self.doer(world).proxy["mnt"]][self.place].of
        return f"umount(place {self.place}, of {one.name}) by t{self.task}"


@dataclass(frozen=True, slots=True)
class Setns(WithFile):
    """setns(2) with a file and a type: its own, none, or a wrong one."""

    rule = SETNS

    kinds: NS = NS.NONE

    def apply(self, world: World) -> int:
        task, file = self.doer(world), self.file(world)
        if errno := setns_errno(task, file, self.kinds):
            return errno
        world.enter(task, links_of({file.of.kind: file.of}))
        return 0

    def describe(self, world: World) -> str:
        return f"setns({naming(self, world)}, {names_of(self.kinds)}) by t{self.task}"


@dataclass(frozen=True, slots=True)
class Join(Operation):
    """setns(2) with a pidfd of the task `target`; for tasks that see all pids."""

    rule = JOIN

    target: int = 0
    kinds: NS = NS.NONE

    def resolve(self, world: World) -> Self | None:
        chosen = self._among([one for one in world.living() if one.pid is world.initial_pid])
        targets = [one.number for one in world.unreaped()]
        return chosen and replace(chosen, target=pick(self.target, targets))

    def apply(self, world: World) -> int:
        task, target = self.doer(world), world.tasks[self.target]
        if errno := join_errno(world, task, target, self.kinds):
            return errno
        world.enter(task, links_of(joined(target, self.kinds)))
        return 0

    def describe(self, _world: World) -> str:
        return f"setns(pidfd of t{self.target}, {names_of(self.kinds)}) by t{self.task}"
