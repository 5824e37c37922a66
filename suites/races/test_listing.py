# SPDX-License-Identifier: GPL-2.0-only
"""listns(2) while a namespace in the middle of the list ends, or a new one appears at its end.

What lives throughout is listed exactly once and in order, whatever happens beside it.
"""

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from nslib import (
    NS,
    ListRequest,
    hold_each,
    holding,
    id_of,
    ids_of,
    list_all,
    poke,
    read_ids,
    release,
)
from nslib.newcomers import Maker, Newcomers, left
from nslib.races import Explore
from nslib.shots import SYS_CLOSE, SYS_UNSHARE, Call
from nslib.stage import Stage
from nslib.syscalls import SYS_LISTNS

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns", "uts_ns")

LASTING = 40
ROOM = 64


@pytest.fixture
def lasting() -> Iterator[list[int]]:
    """Ids of namespaces that are there all the time."""
    with holding(*[NS.UTS] * LASTING) as held:
        yield ids_of(held)


class Lister:
    """An actor that asks for one page."""

    def __init__(self, stage: Stage) -> None:
        """It comes second."""
        self._request = stage.arena.take(len(ListRequest().pack()))
        self._page = stage.arena.take(ROOM * 8)
        self.actor = stage.actor([], Call(SYS_LISTNS, (self._request, self._page, ROOM, 0)))

    def ask(self, request: ListRequest) -> None:
        """What to list next."""
        poke(self._request, request.pack())

    def page(self) -> list[int]:
        """The ids that it got."""
        assert self.actor.result >= 0
        ids = read_ids(self._page, self.actor.result)
        assert all(one < following for one, following in pairwise(ids))
        return ids


@pytest.mark.behaviour("LNS-PAG-18", "LNS-PAG-19", "LNS-PAG-20")
@pytest.mark.budget("race", 0.02)
@pytest.mark.parametrize("types", [NS.UTS, NS.NONE], ids=["type", "all"])
def test_namespace_ends(types: NS, lasting: list[int], stage: Stage, explore: Explore) -> None:
    lister, closer = Lister(stage), stage.actor([], Call(SYS_CLOSE), far=True)
    lister.ask(ListRequest(types, cursor=lasting[0] - 1))

    def attempt() -> str:
        ending, last = hold_each([NS.UTS, NS.UTS])
        closer.aim(0, ending.fd)
        stage.race(closer, lister.actor)
        page = lister.page()
        assert page in ([*lasting, last.id], [*lasting, ending.id, last.id])
        assert list_all(types, page_size=7, cursor=lasting[0] - 1) == [*lasting, last.id]
        release([last])
        return "listed" if ending.id in page else "gone"

    explore(attempt, early=["gone"])


@pytest.mark.behaviour("LNS-PAG-18", "LNS-PAG-19", "REG-04")
@pytest.mark.budget("race", 0.02)
def test_owned_namespace_ends(stage: Stage, explore: Explore) -> None:
    kinds = NS.UTS | NS.IPC | NS.MNT
    maker, lister = Maker(stage, kinds), Lister(stage)
    closer = stage.actor([], Call(SYS_CLOSE), far=True)

    def attempt() -> str:
        ids, fds, _ = maker.make(NS.MNT, NS.UTS, NS.IPC)
        lasts, ends, lasts_too = map(id_of, fds)
        closer.aim(0, fds[1])
        lister.ask(ListRequest(owner=ids[0]))
        stage.race(closer, lister.actor)
        page = lister.page()
        assert page in (sorted([lasts, lasts_too]), sorted([lasts, ends, lasts_too]))
        assert left(ids) == sorted([ids[0], lasts, lasts_too])
        os.close(fds[0])
        os.close(fds[2])
        assert left(ids) == []
        return "listed" if ends in page else "gone"

    explore(attempt, early=["gone"])


@pytest.mark.behaviour("LNS-PAG-18", "LNS-PAG-19", "LNS-PAG-16")
@pytest.mark.budget("race", 0.02)
def test_namespace_is_made(lasting: list[int], stage: Stage, explore: Explore) -> None:
    newcomers, lister = Newcomers(), Lister(stage)
    maker = stage.actor([], Call(SYS_UNSHARE, (NS.UTS,)), far=True)
    lister.ask(ListRequest(NS.UTS, cursor=lasting[0] - 1))

    def attempt() -> str:
        stage.race(maker, lister.actor)
        assert maker.result == 0
        new = newcomers.take(1)
        page = lister.page()
        assert page in (lasting, lasting + new)
        maker.end()
        assert left(new) == []
        return "listed" if page != lasting else "missed"

    explore(attempt, early=["listed"])
