# SPDX-License-Identifier: GPL-2.0-only
"""Sequences of operations as JSON, for a run's results, and back for a replay."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

from ..namespaces import NS
from .operations import Operation, names_of
from .repertoire import OPERATIONS

Record = dict[str, str | int]

_BY_NAME = {kind.__name__: kind for kind in OPERATIONS}
_MASKS = ("kinds", "types")


def recorded(operations: Iterable[Operation]) -> list[Record]:
    """Operations as objects that JSON holds: the name as "op", namespace types as "USER|NET"."""
    return [_recorded(one) for one in operations]


def _recorded(operation: Operation) -> Record:
    values = {one.name: getattr(operation, one.name) for one in fields(operation)}
    masks = {name: names_of(values[name]) for name in _MASKS if name in values}
    return {"op": type(operation).__name__} | values | masks


def replayable(records: Sequence[Record]) -> list[Operation]:
    """The operations that were recorded; KeyError or TypeError for what is none."""
    return [_replayable(dict(record)) for record in records]


def _replayable(record: Record) -> Operation:
    kind: Callable[..., Operation] = _BY_NAME[str(record.pop("op"))]
    masks = {name: _mask(str(record[name])) for name in _MASKS if name in record}
    return kind(**{**record, **masks})


def _mask(names: str) -> NS:
    mask = NS.NONE
    for name in names.split("|"):
        if name != "0":
            mask |= NS[name]
    return mask
