# SPDX-License-Identifier: GPL-2.0-only
"""The code that dataclasses write when they are defined, compiled ahead of time.

As a program it writes what all modules of the packages in its arguments need to standard output.
"""

import dataclasses
import importlib
import marshal
import pkgutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType

from vm.cpio import Entry

# It is where harness.guest.generated looks for it.
_GUEST_PATH = "nsconform/generated"


def guest_files(packages: Iterable[str]) -> dict[str, Entry]:
    """Return the compiled code of all modules of some packages as guest path → entry."""
    argv = [sys.executable, "-m", "vm.generated", *packages]
    # A process of its own: what is imported here already defines nothing any more. And not in our
    # user's folder, where Python would look first: it may have a `vm` or `harness` too.
    top = Path(__file__).parent.parent
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, cwd=top)
    return {_GUEST_PATH: Entry(done.stdout)}


def recording() -> dict[str, CodeType]:
    """Have dataclasses note from now on what they compile, in what is returned: text → code."""
    known: dict[str, CodeType] = {}

    def execute(text: str, module: dict[str, object], names: dict[str, object]) -> None:
        known[text] = compile(text, "<string>", "exec", dont_inherit=True)
        exec(known[text], module, names)  # noqa: S102

    # Found before the built-in function by the module's own code (dataclasses.py, _create_fn).
    dataclasses.exec = execute  # type: ignore[attr-defined]
    return known


def _main(*packages: str) -> None:
    known = recording()
    for name in packages:
        path = importlib.import_module(name).__path__
        for module in pkgutil.walk_packages(path, f"{name}."):
            importlib.import_module(module.name)
    marshal.dump(known, sys.stdout.buffer)


if __name__ == "__main__":
    _main(*sys.argv[1:])
