# SPDX-License-Identifier: GPL-2.0-only
"""The process in which pytest collects: python -m harness.collector SUITES OUTPUT [OPTION…].

It writes the collected tests to OUTPUT as JSON, with what the dataclasses of the suites compile,
and as pytest does, the compiled test modules to the folder that PYTHONPYCACHEPREFIX names.
`harness.collect` starts it.
"""

import base64
import json
import marshal
import sys
from pathlib import Path
from types import CodeType

import pytest

from vm.generated import recording


class _Recorder:
    def __init__(self, output: Path, generated: dict[str, CodeType]) -> None:
        self._output = output
        self._generated = generated

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        tests = [{"id": item.nodeid, "behaviours": _behaviours(item)} for item in session.items]
        generated = base64.b64encode(marshal.dumps(self._generated)).decode()
        self._output.write_text(json.dumps({"tests": tests, "generated": generated}))


def _behaviours(item: pytest.Item) -> list[str]:
    return [row for mark in item.iter_markers("behaviour") for row in mark.args]


def _main(suites: str, output: str, *options: str) -> int:
    argv = ["--collect-only", "-q", f"--rootdir={suites}", *options, suites]
    status = pytest.main(argv, plugins=[_Recorder(Path(output), recording())])
    # An expression that matches nothing is an answer too.
    return 0 if status is pytest.ExitCode.NO_TESTS_COLLECTED else int(status)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
