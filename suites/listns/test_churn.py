# SPDX-License-Identifier: GPL-2.0-only
"""listns(2): what holds of lists while namespaces come and go, and while others read too.

What comes and goes is newer than what lasts, or is read in one call: before 7.3.4 a page that
starts in front of a namespace which is just ending would be the end of the list (LNS-PAG-13).
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice, product, zip_longest
from math import ceil
from typing import ParamSpec, TypeVar

import pytest
from nslib import (
    NS,
    Held,
    ListRequest,
    Task,
    hold,
    hold_each,
    holding,
    ids_of,
    iterate_pages,
    list_all,
    list_page,
    ns_id,
    release,
)

pytestmark = pytest.mark.needs("listns", "uts_ns", "ipc_ns")

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def meanwhile(
    task: Task, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Future[R]]:
    """Have the task run a function during the block."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: task.call(function, *args, **kwargs))
        yield running
    running.result()


def come_and_go(kinds: Iterable[NS], times: int) -> None:
    """Make and end a namespace that many times, of the types in turn."""
    for kind in islice(cycle(kinds), times):
        release([hold(kind)])


def replace_each(held: Iterable[Held]) -> None:
    """End the namespaces one by one, and make another after each."""
    for one in held:
        release([one])
        hold(NS.UTS)


def page_sizes_during(*running: Future[None]) -> Iterator[int]:
    """The page sizes 1 to 41, over and over until the calls have returned."""
    done = False
    while not done:
        done = all(call.done() for call in running)
        yield from range(1, 42)


@pytest.mark.behaviour("LNS-PAG-18", "LNS-PAG-19")
def test_what_lasts_is_listed_once_while_others_come_and_go() -> None:
    with holding(*[NS.UTS, NS.IPC] * 20) as held, Task() as one, Task() as other:
        ids = ids_of(held)
        lasting = {NS.NONE: ids, NS.UTS: ids[::2], NS.UTS | NS.IPC: ids}
        filters = cycle(product(lasting, [0, ns_id(NS.USER)]))
        with (
            meanwhile(one, come_and_go, [NS.UTS, NS.IPC], 30) as first,
            meanwhile(other, come_and_go, [NS.MNT, NS.IPC], 20) as second,
        ):
            for nr, (types, owner) in zip(page_sizes_during(first, second), filters, strict=False):
                listed = list_all(types, owner, nr, cursor=ids[0] - 1)
                assert listed == sorted(set(listed))
                assert [one for one in listed if one <= ids[-1]] == lasting[types]


@pytest.mark.behaviour("LNS-PAG-18", "LNS-PAG-19")
def test_what_lasts_is_listed_once_while_its_neighbours_end() -> None:
    with Task() as task:
        held = task.call(hold_each, [NS.UTS] * 60)
        lasting, start = ids_of(held[::2]), held[0].id - 1
        with meanwhile(task, replace_each, held[1::2]) as running:
            for nr in page_sizes_during(running):
                in_one_call = list_page(ListRequest(NS.UTS, cursor=start))
                assert [one for one in in_one_call if one in lasting] == lasting
                by_pages = list_all(page_size=nr, cursor=start)
                assert by_pages[0] == lasting[0]
                assert by_pages == sorted(set(by_pages))


@pytest.mark.behaviour("LNS-PAG-20")
def test_reading_ends_though_namespaces_are_made_meanwhile() -> None:
    there, limit = 8, 6
    for nr in (1, 2, 3, 7):
        with holding(*[NS.UTS] * there) as held, ExitStack() as newcomers:
            pages = iterate_pages(ListRequest(cursor=held[0].id - 1), nr)
            read = 0
            for read, _ in enumerate(islice(pages, there + limit + 1), start=1):
                if read <= limit:
                    newcomers.enter_context(holding(NS.UTS))
        assert ceil(there / nr) <= read <= ceil((there + min(read, limit)) / nr), nr


@pytest.mark.behaviour("LNS-PAG-21")
def test_readers_at_the_same_time_do_not_disturb_each_other() -> None:
    with holding(*[NS.UTS, NS.IPC] * 6) as held:
        ids = ids_of(held)
        expected = {NS.UTS: ids[::2], NS.IPC: ids[1::2], NS.UTS | NS.IPC: ids}
        with ThreadPoolExecutor(len(expected)) as pool:
            reading = {types: pool.submit(_read_often, types, ids[0] - 1) for types in expected}
        for types, result in reading.items():
            assert result.result() == [expected[types]] * 20, types


def _read_often(types: NS, cursor: int) -> list[list[int]]:
    return [list_all(types, page_size=1 + turn % 3, cursor=cursor) for turn in range(20)]


@pytest.mark.behaviour("LNS-PAG-21")
def test_readers_in_turn_do_not_disturb_each_other() -> None:
    with holding(*[NS.UTS, NS.IPC] * 6) as held:
        ids = ids_of(held)
        one = iterate_pages(ListRequest(NS.UTS, cursor=ids[0] - 1), 2)
        other = iterate_pages(ListRequest(cursor=ids[0] - 1), 3)
        pages = list(zip_longest(one, other, fillvalue=()))
    assert [one for page, _ in pages for one in page] == ids[::2]
    assert [one for _, page in pages for one in page] == ids
