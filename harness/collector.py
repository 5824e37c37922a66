# SPDX-License-Identifier: GPL-2.0-only
"""The process in which pytest collects.

python -m harness.collector SUITES OUTPUT METHODS [OPTION…]

It writes the collected tests to OUTPUT as JSON, the methods that dataclasses generates for pytest,
the agent and the suites to METHODS, and as pytest does, the compiled test modules to the folder
that PYTHONPYCACHEPREFIX names. `harness.collect` starts it.
"""

# ruff: noqa: E402 - the record must be there before what it records
import json
import sys
from pathlib import Path

from harness.guest import generated

_METHODS = generated.Record()

import pytest

from harness.guest import agent  # noqa: F401 - for its dataclasses


class _Recorder:
    def __init__(self, output: Path) -> None:
        self._output = output

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        tests = [{"id": item.nodeid, "behaviours": _behaviours(item)} for item in session.items]
        self._output.write_text(json.dumps(tests))


def _behaviours(item: pytest.Item) -> list[str]:
    return [row for mark in item.iter_markers("behaviour") for row in mark.args]


def _main(suites: str, output: str, methods: str, *options: str) -> int:
    argv = ["--collect-only", "-q", f"--rootdir={suites}", *options, suites]
    status = pytest.main(argv, plugins=[_Recorder(Path(output))])
    _METHODS.save(Path(methods))
    # An expression that matches nothing is an answer too.
    return 0 if status is pytest.ExitCode.NO_TESTS_COLLECTED else int(status)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
