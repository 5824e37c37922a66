# SPDX-License-Identifier: GPL-2.0-only
"""The methods that dataclasses write as they are defined come compiled, with image and suites.

To compile the 240 of pytest is a fifth of all that Python does in the guest before the first test.
"""

import dataclasses
import marshal
from types import CodeType

_OF_IMAGE = "/nsconform/generated"
_known: dict[str, CodeType] = {}


def recall() -> None:
    """Let dataclasses take what they would compile from the image, if it is there."""
    learn(_OF_IMAGE)
    # Found before the built-in function by the module's own code (dataclasses.py, _create_fn).
    dataclasses.exec = _execute  # type: ignore[attr-defined]


def learn(path: str) -> None:
    """Add what is in a file of text → code."""
    with open(path, "rb") as file:
        _known.update(marshal.load(file))  # noqa: S302 - our own harness made it


def _execute(text: str, module: dict[str, object], names: dict[str, object]) -> None:
    exec(_known.get(text, text), module, names)  # noqa: S102
