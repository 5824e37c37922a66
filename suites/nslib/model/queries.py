# SPDX-License-Identifier: GPL-2.0-only
"""The operation that changes nothing: listns(2)."""

from dataclasses import dataclass, replace
from typing import Self

from ..namespaces import BEYOND_ALL_IDS, NS
from .lifetimes import active
from .listings import LISTED, WRAPPING_CURSOR, Request
from .operations import Operation, names_of, pick
from .worlds import World

NO_OWNER, CURRENT_OWNER = -1, -2
START, BEYOND, WRAPPING = -1, -2, -3


@dataclass(frozen=True, slots=True)
class List(Operation):
    """listns(2). `owner` is the number of a namespace, NO_OWNER or CURRENT_OWNER; `cursor` is that
    of a namespace, START, BEYOND all ids or WRAPPING; `lower` makes the id one less."""

    rule = LISTED

    types: NS = NS.NONE
    owner: int = NO_OWNER
    cursor: int = START
    lower: int = 0
    nr: int = 100

    def resolve(self, world: World) -> Self | None:
        chosen = Operation.resolve(self, world)
        numbers = range(len(world.namespaces))
        users = [one.number for one in active(world) if one.kind == NS.USER]
        if self.owner not in (NO_OWNER, CURRENT_OWNER, *numbers):
            chosen = chosen and replace(chosen, owner=pick(self.owner, sorted(users)))
        return chosen and replace(chosen, cursor=pick(self.cursor, range(WRAPPING, len(numbers))))

    def apply(self, _world: World) -> int:
        return 0

    def request(self, world: World) -> Request:
        """The request, with ids in place of numbers."""
        owner = None
        if self.owner != NO_OWNER:
            is_current = self.owner == CURRENT_OWNER
            owner = self.doer(world).user if is_current else world.namespaces[self.owner]
        special = {START: 0, BEYOND: BEYOND_ALL_IDS, WRAPPING: WRAPPING_CURSOR}
        cursor = special.get(self.cursor)
        if cursor is None:
            cursor = world.namespaces[self.cursor].id - self.lower
        return Request(self.types, owner, cursor, self.nr)

    def describe(self, world: World) -> str:
        names = {NO_OWNER: "any", CURRENT_OWNER: "current"}
        names |= {one.number: one.name for one in world.namespaces}
        cursors = {START: "0", BEYOND: "2^62", WRAPPING: "2^64-1"}
        cursor = cursors.get(self.cursor) or names[self.cursor] + (" - 1" if self.lower else "")
        types = names_of(self.types) if self.types else "all"
        return (
            f"listns(types {types}, owner {names[self.owner]}, cursor {cursor}, nr {self.nr}) "
            f"by t{self.task}"
        )
