# SPDX-License-Identifier: GPL-2.0-only
"""How hypothesis draws sequences of operations."""

from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from ..namespaces import NS
from .campaigns import Weights
from .operations import Operation
from .phrases import Phrase
from .queries import CURRENT_OWNER, NO_OWNER, WRAPPING

_SINGLE = (NS.USER, NS.NET, NS.PID, NS.UTS, NS.IPC, NS.MNT, NS.CGROUP, NS.TIME)
_OWNED = tuple(NS.USER | kind for kind in _SINGLE[1:])
_MIXED = (NS.NONE, NS.NET | NS.UTS, NS.PID | NS.IPC, NS.MNT | NS.TIME, NS.UTS | NS.CGROUP, NS.ALL)
_KINDS = st.sampled_from((*_SINGLE, *_OWNED, *_OWNED, *_MIXED))
_SMALL = st.integers(0, 7)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "kinds": _KINDS,
    "types": st.sampled_from((NS.NONE, NS.NONE, *_SINGLE, NS.NET | NS.UTS, NS.USER | NS.PID)),
    # Beyond the eight that are always there, and more of them than most worlds have.
    "ns": st.integers(8, 40),
    "owner": st.sampled_from((NO_OWNER, NO_OWNER, CURRENT_OWNER, *range(100, 106))),
    "cursor": st.integers(WRAPPING, 31),
    "lower": st.integers(0, 1),
    "nr": st.sampled_from((100, 100, 1, 2, 3)),
}


def sequences(weights: Weights, length: int) -> st.SearchStrategy[list[Operation]]:
    """Sequences of up to `length` operations or phrases."""
    drawings = [_drawing(kind) for kind, weight in weights.items() for _ in range(weight)]

    @st.composite
    def sequence(draw: st.DrawFn) -> list[Operation]:
        found: list[Operation] = []
        for _ in range(length):
            # 0 stands for none: what a sequence does not need shrinks to it.
            if number := draw(st.integers(0, len(drawings))):
                found.extend(draw(drawings[number - 1]))
        return found

    return sequence()


def _drawing(kind: type[Operation] | Phrase) -> st.SearchStrategy[list[Operation]]:
    if not isinstance(kind, type):
        return st.builds(kind, _KINDS, _SMALL)
    drawn = {one.name: _FIELDS.get(one.name, _SMALL) for one in fields(kind)}
    return st.builds(kind, **drawn).map(lambda one: [one])
