# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that answers as the reference model demands, but for its bugs."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from nslib import LINKS, NS
from nslib.model import plays
from nslib.model.calls import Answer
from nslib.model.descriptors import Open
from nslib.model.lifetimes import active
from nslib.model.listings import Page, Request, page
from nslib.model.operations import Operation
from nslib.model.worlds import Home, Namespace, Task, World

See = Callable[[World], set[Namespace]]
Ask = Callable[[World, Task, Request], Page]


def _asked(world: World, caller: Task, request: Request) -> Page:
    demanded = page(world, caller, request)[0]
    return Page(demanded.ids, frozenset((min(demanded.errnos),)))


class Mirror:
    """Stands for a stage and its kernel; `see` says what is active there, `ask` what is listed."""

    def __init__(self, see: See = active, ask: Ask = _asked) -> None:
        self.home = Home()
        self.newest = 8
        self._see, self._ask = see, ask
        self._ids = 9
        self._world = World(self.home)

    @contextmanager
    def world(self) -> Iterator[World]:
        world = World(self.home)
        self._world = copy.deepcopy(world)
        yield world
        self._world = World(self.home)

    def perform(self, operation: Operation, world: World, _stage: object) -> Answer:
        self._world = copy.deepcopy(world)
        task = self._world.tasks[operation.task]
        before = dict(task.files)
        errno = operation.apply(self._world)
        for one in self._world.namespaces:
            if not one.id:
                self._ids += 1
                one.id = self._ids
        new = [fd for fd in task.files if fd not in before]
        if errno or not new:
            return Answer(errno)
        file = task.files[new[0]]
        return Answer(0, new[0], 0 if file.is_socket else file.of.id)

    def ids_of(self, task: Task) -> dict[str, int]:
        mine = self._world.tasks[task.number]
        links = {"user": mine.user, "pid": mine.pid, **mine.proxy}
        return {link: one.id for link, one in links.items()}

    def fresh_id(self) -> int:
        self.newest = self._ids
        return self._ids

    def map_root(self, task: Task) -> None:
        assert task.user.is_mapped

    def list_by_observer(self, _stage: object, cursor: int = 0) -> Page:
        return Page(tuple(sorted(one.id for one in self._see(self._world) if one.id > cursor)))

    def opens_for_observer(self, ns_id: int, _stage: object) -> int:
        return ns_id if ns_id in [one.id for one in self._see(self._world)] else 0

    def list_page(
        self, caller: Task, request: Request, _stage: object, *, is_current: bool = False
    ) -> Page:
        mine = self._world.tasks[caller.number]
        owner = mine.user if is_current else self._of(request.owner)
        return self._ask(
            self._world, mine, Request(request.types, owner, request.cursor, request.nr)
        )

    def _of(self, one: Namespace | None) -> Namespace | None:
        return self._world.namespaces[one.number] if one else None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have plays ask it in place of the kernel."""
        for name in ("perform", "list_by_observer", "opens_for_observer", "list_page"):
            monkeypatch.setattr(plays, name, getattr(self, name))


def open_link(task: int, target: int, kind: NS) -> Open:
    """Open a namespace of a task."""
    return Open(task, target, LINKS.index(kind.link))
