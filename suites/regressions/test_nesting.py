# SPDX-License-Identifier: GPL-2.0-only
"""Deeply nested user namespaces: each is kept by the one below it."""

import pytest
from nslib import NS, list_all, nest, open_ns, owned, visible

pytestmark = pytest.mark.needs("active_refs", "id_handles", "user_ns", "uts_ns")

LEVELS = 30


@pytest.mark.behaviour("REG-14")
def test_nested_user_namespaces_live_as_long_as_the_leaf() -> None:
    with nest(NS.UTS, LEVELS) as nested:
        ids = nested.ids
        assert len(ids) == LEVELS + 1
        assert visible(*ids) == ids
        for outer, inner in zip(nested.users, nested.users[1:], strict=False):
            assert list_all(owner=outer) == [inner]
        with owned(open_ns(NS.UTS, nested.task.pid)):
            nested.task.reap()
            assert visible(*ids) == ids
        assert visible(*ids) == set()


@pytest.mark.behaviour("REG-14")
def test_nested_user_namespaces_end_with_the_task() -> None:
    with nest(NS.UTS, LEVELS) as nested:
        nested.task.zombie()
        assert visible(*nested.ids) == set(nested.users)
        nested.task.reap()
        assert visible(*nested.ids) == set()
