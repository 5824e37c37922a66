# SPDX-License-Identifier: GPL-2.0-only
"""What a search plays; apart from it, so that whoever collects tests need not load hypothesis."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .operations import Operation
from .phrases import Phrase

Weights = Mapping[type[Operation] | Phrase, int]
"""How often an operation or a phrase comes, in relation to the others."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """What to play: operations and phrases by their weights, so many in a sequence; and whether to
    wait after each until the kernel has freed what it made."""

    weights: Weights
    length: int = 24
    with_removal: bool = False


Explore = Callable[[Campaign], None]
"""The fixture by which tests run a campaign."""
