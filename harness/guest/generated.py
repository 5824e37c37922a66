# SPDX-License-Identifier: GPL-2.0-only
"""The methods that dataclasses writes, compiled before the guest starts.

`dataclasses` writes methods as text and has Python compile it, in each process anew: a sixth of
all that Python does in the guest before the first test. The host keeps the compiled form of every
text that it sees while it collects the tests; in the guest the same text needs no compiling. A
text that the host has not seen, or a Python whose `dataclasses` does it otherwise, is as it was.
"""

import dataclasses
import marshal
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

_Execute = Callable[..., None]


class Record:
    """Takes down what dataclasses compiles in this process from now on."""

    def __init__(self) -> None:
        self._seen: dict[str, bytes] = {}
        _let_dataclasses_use(self._execute)

    def save(self, file: Path) -> None:
        """Write what was seen so far, for a guest with the same Python."""
        file.write_bytes(marshal.dumps(self._seen))

    def _execute(self, text: str, *namespaces: dict[str, Any]) -> None:
        code = compile(text, "<string>", "exec", dont_inherit=True, optimize=0)
        self._seen[text] = marshal.dumps(code)
        exec(code, *namespaces)  # noqa: S102 - as dataclasses does


def recall(file: Path) -> None:
    """Let dataclasses find compiled what a `Record` has saved."""
    seen: dict[str, bytes] = marshal.loads(file.read_bytes())  # noqa: S302 - from our own image

    def execute(text: str, *namespaces: dict[str, Any]) -> None:
        code: str | CodeType = marshal.loads(seen[text]) if text in seen else text  # noqa: S302
        exec(code, *namespaces)  # noqa: S102 - as dataclasses does

    _let_dataclasses_use(execute)


def _let_dataclasses_use(execute: _Execute) -> None:
    """Put a function in the place of exec(): a module's own names come before Python's."""
    vars(dataclasses)["exec"] = execute
