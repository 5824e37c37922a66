# SPDX-License-Identifier: GPL-2.0-only
"""Modules that pytest imports and does not use in the guest are loaded when they are used.

With the forty modules that they import in turn (email, random, urllib …) they are a twentieth of
all that Python does in the guest before the first test. To name one too many here costs time, in
each test that uses it, and nothing else.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_MODULES = frozenset(("importlib.metadata", "ipaddress", "tempfile", "zipfile"))


def put_off() -> None:
    """Load these modules when something of them is asked for, if nobody has until now."""
    sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds them where they are, with a loader that waits (PEP 451)."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _MODULES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
