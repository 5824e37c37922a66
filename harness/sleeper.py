# SPDX-License-Identifier: GPL-2.0-only
"""A guest out of a snapshot, before it goes on."""

from dataclasses import dataclass

from harness.events import Hello


@dataclass(frozen=True)
class Sleeper:
    """A guest that can go on: descriptors of its memory and state, and what its agent had said."""

    memory: int
    state: int
    hello: Hello
