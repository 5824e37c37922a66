# SPDX-License-Identifier: GPL-2.0-only
"""A recorded sequence again: on the running kernel, or by the rules alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..namespaces import FIRST_DYNAMIC_ID
from .lifetimes import active
from .listings import Page, page
from .operations import Operation
from .places import PLACES
from .plays import Play, Player
from .queries import List
from .stage import stage
from .worlds import World


@dataclass(frozen=True, slots=True)
class Step:
    """An operation as it was resolved, in words, and what the rules demand: the errno, the names of
    the created namespaces that are active then, and the list that listns(2) gives."""

    operation: Operation
    line: str
    errno: int
    active: tuple[str, ...]
    page: Page | None = None


def replay(operations: Iterable[Operation]) -> Play:
    """Perform a sequence on the running kernel; for a real root on a quiet system with listns(2).

    Raises Disagreement where the kernel does not keep a rule.
    """
    done = Play()
    with stage(PLACES) as place:
        Player(place).play(operations, done)
    return done


def foretell(operations: Iterable[Operation]) -> list[Step]:
    """What the rules demand of each step of a sequence, without a kernel: ids are made up, in the
    order in which the kernel would give them."""
    world = World()
    return [_step(one, world) for each in operations if (one := each.resolve(world)) is not None]


def _step(operation: Operation, world: World) -> Step:
    line = operation.describe(world)
    listed = None
    if isinstance(operation, List):
        listed = page(world, operation.doer(world), operation.request(world))[0]
    errno = operation.apply(world)
    for one in world.namespaces:
        one.id = one.id or FIRST_DYNAMIC_ID + one.number
    there = sorted((one for one in active(world) if not one.is_permanent), key=lambda one: one.id)
    return Step(operation, line, errno, tuple(one.name for one in there), listed)
