# SPDX-License-Identifier: GPL-2.0-only
"""The guest does without Pygments: 5 MB of image and a sixth of pytest's start, for colours.

pytest imports it for terminals, of which a guest's agent has none (_pytest/_io/terminalwriter.py).
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "pygments"


def do_without() -> None:
    """Let every import from Pygments succeed, with classes that do nothing."""
    sys.meta_path.insert(0, _Substitute())


class _Substitute:
    """Finds and loads modules that have any name one asks for (PEP 451, PEP 562)."""

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] != _PACKAGE:
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> None:
        """Take the ordinary kind of module."""

    def exec_module(self, module: ModuleType) -> None:
        def substitute(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = substitute  # type: ignore[method-assign]
