# SPDX-License-Identifier: GPL-2.0-only
"""The namespaces that an attempt at a race has made, and what becomes of them."""

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from .features import has_feature
from .ids import open_ns
from .listing import ListingError, list_all
from .namespaces import NS
from .shots import Call, enter
from .stage import Stage
from .visibility import visible
from .waiting import wait_until


class Newcomers:
    """Namespaces made since the last look: their ids are above all that there were (NSID-04).

    For a real root, on a system where nobody else makes any. On kernels without listns there is
    nothing to see, and nothing is expected.
    """

    def __init__(self) -> None:
        """From now on."""
        self._listed = has_feature("listns")
        self._top = max(list_all()) if self._listed else 0

    def take(self, count: int) -> list[int]:
        """Their ids, in the order in which they were made; there must be so many."""
        if not self._listed:
            return []
        ids = since(self._top)
        if len(ids) != count:
            raise ListingError(f"{count} namespaces were made, {ids} are listed")
        self._top = ids[-1]
        return ids


def since(last: int) -> list[int]:
    """The namespaces that are listed now and were made after the one with the id `last`."""
    # Not by a cursor: before 7.3.4 a list that starts in front of an inactive namespace is empty.
    return [one for one in list_all() if one > last]


def listed(ids: Iterable[int]) -> list[int]:
    """Those that listns shows, in order."""
    some = set(ids)
    return sorted(some.intersection(list_all())) if some else []


def left(ids: Iterable[int]) -> list[int]:
    """Those that are visible, in order; ListingError where lists and handles disagree."""
    some = list(ids)
    return sorted(visible(*some)) if some else []


def left_at_last(ids: Iterable[int], expected: list[int]) -> list[int]:
    """As left(), when it has become what is `expected`, or has not for long: after what happens
    asynchronously, such as the end of a task that the kernel reaps itself (exit_notify())."""
    some = set(ids)
    if some:
        with suppress(TimeoutError):
            wait_until(lambda: some.intersection(list_all()) == set(expected), "end")
    return left(some)


class Made(NamedTuple):
    """Namespaces that a Maker has made: their ids, the user namespaces first; fds of those that
    are kept; what the last call returned, an fd if it opens one."""

    ids: list[int]
    fds: list[int]
    last: int


class Maker:
    """Makes namespaces in a chain of user namespaces, kept by nothing but an fd each."""

    def __init__(self, stage: Stage, kinds: NS, depth: int = 1, *last: Call) -> None:
        """An actor makes them: `kinds` in the innermost of `depth` user namespaces, and a `last`
        call there."""
        self._kinds, self._count = kinds, depth + len(kinds)
        self._actor = stage.actor([*enter(stage.arena, kinds, depth), *last], far=True)
        self._newcomers = Newcomers()

    def make(self, *kept: NS) -> Made:
        """Make them once more, and keep those of some types (USER: the innermost)."""
        self._actor.prepare()
        self._actor.start()
        self._actor.wait_over()
        ids = self._newcomers.take(self._count)
        fds = [open_ns(kind, self._actor.pid) for kind in kept]
        self._actor.end()
        return Made(ids, fds, self._actor.before_shot)
