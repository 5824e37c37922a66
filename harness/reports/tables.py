# SPDX-License-Identifier: GPL-2.0-only
"""How tables look on a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

# Between columns.
GAP = 2


def plain_table(console: Console) -> Table:
    """A table with a line below its headings and none else, or none where there is only ASCII."""
    plain = console.options.ascii_only
    # A box has one space of its own between columns.
    padding = (0, GAP if plain else GAP - 1, 0, 0)
    line = None if plain else box.SIMPLE_HEAD
    return Table(box=line, show_edge=False, pad_edge=False, padding=padding)
