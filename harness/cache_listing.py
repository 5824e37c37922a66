# SPDX-License-Identifier: GPL-2.0-only
"""What `nsconform cache` prints: what the cache holds, and what clearing it has freed."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console
from rich.filesize import pick_unit_and_suffix

from harness.reports.tables import plain_table
from harness.reports.text import on_terminal
from vm.cache import cache_dir
from vm.errors import ConfigError
from vm.pruning import KINDS, LIMIT_VARIABLE, Entry, Kind, Removal, clear, entries, limit

_UNITS = ["B", "K", "M", "G", "T"]


def print_cache(console: Console) -> None:
    """Print what there is of each kind, and what of it counts towards the limit.

    Raises ConfigError for a limit that is no size.
    """
    allowed = limit()
    found = {kind: entries(kind) for kind in KINDS}
    console.print(on_terminal(f"cache: {cache_dir()}", console), soft_wrap=True)
    console.print()
    table = plain_table(console)
    for heading in ("kind", "entries", "size", "last use", "path"):
        table.add_column(heading, justify="right" if heading in ("entries", "size") else "left")
    for kind, there in found.items():
        table.add_row(*(on_terminal(cell, console) for cell in _cells(kind, there)))
    console.print(table)
    console.print()
    limited = [kind for kind in KINDS if kind.limited]
    counting = sum(entry.size for kind in limited for entry in found[kind])
    summary = (
        f"{_enumeration(kind.name for kind in limited)} take {_size(counting)} of at most "
        f"{_size(allowed)} ({LIMIT_VARIABLE}); what was used longest ago is dropped first. "
        "The others stay until they are cleared by name."
    )
    console.print(on_terminal(summary, console))


def clear_kinds(kinds: Sequence[Kind], console: Console) -> None:
    """Clear these kinds, or if none is named those that are made again; say what went.

    Raises ConfigError when something cannot be removed, after the rest has been.
    """
    problems: list[str] = []
    for kind in dict.fromkeys(kinds) or [kind for kind in KINDS if kind.limited]:
        removal = _cleared(kind)
        console.print(on_terminal(f"{kind.name}: {_account(removal)}", console))
        problems += removal.problems
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise ConfigError(f"the cache cannot be cleared: {problems[0]}{more}")


def _cleared(kind: Kind) -> Removal:
    try:
        return clear(kind)
    except OSError as error:
        return Removal(problems=[f"{error.filename or kind.name}: {error.strerror}"])


def _account(removal: Removal) -> str:
    freed = f"{_size(removal.freed)} freed, {_entries(len(removal.gone))} removed"
    return freed + (f", {len(removal.held)} in use and kept" if removal.held else "")


def _cells(kind: Kind, there: Sequence[Entry]) -> tuple[str, ...]:
    last = max((entry.used for entry in there), default=None)
    used = f"{datetime.fromtimestamp(last):%Y-%m-%d %H:%M}" if last is not None else "-"
    folders = dict.fromkeys(pattern.partition("/") for pattern in kind.patterns)
    places = ", ".join(folder + slash for folder, slash, _ in folders)
    return kind.name, str(len(there)), _size(sum(entry.size for entry in there)), used, places


def _size(many: int) -> str:
    """As `NSCONFORM_CACHE_LIMIT` has it: 1G is 2 to the power of 30."""
    unit, suffix = pick_unit_and_suffix(many, _UNITS, 1024)
    return f"{many} B" if unit == 1 else f"{many / unit:.1f} {suffix}"


def _entries(many: int) -> str:
    return "1 entry" if many == 1 else f"{many} entries"


def _enumeration(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}"
