# SPDX-License-Identifier: GPL-2.0-only
"""What the suites' conftest adds to a test, and the form of the catalogue."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.catalogue import load
from harness.collect import collect

SUITES = Path(__file__).parents[1] / "suites"


def _run_suite(folder: Path, test: str, *, prelude: str = "") -> tuple[int, str]:
    """Run one test in a copy of suites/ with no other test; returns exit status and output."""
    for name in ("conftest.py", "catalogue.toml", "pytest.ini", "nslib"):
        (folder / name).symlink_to(SUITES / name)
    (folder / "test_it.py").write_text(f"import pytest\n{test}\n")
    code = f"{prelude}\nimport pytest, sys\nsys.exit(pytest.main(['-rs', 'test_it.py']))"
    argv = [sys.executable, "-B", "-c", code]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


class TestConftest:
    def test_observations_are_properties(self, tmp_path: Path) -> None:
        test = """
def test_it(observe, request):
    observe("count", [1])
    assert request.node.user_properties == [("count", [1])]
    with pytest.raises(TypeError):
        observe("object", object())
"""
        assert _run_suite(tmp_path, test)[0] == 0

    @pytest.mark.parametrize(
        ("marker", "complaint"),
        [
            ("behaviour('LNS-ARG-01', 'LNS-ARG-99')", "not in catalogue.toml: ['LNS-ARG-99']"),
            ("needs('magic')", "not in nslib.FEATURES: ['magic']"),
        ],
    )
    def test_wrong_markers_are_refused(self, tmp_path: Path, marker: str, complaint: str) -> None:
        status, output = _run_suite(tmp_path, f"@pytest.mark.{marker}\ndef test_it(): pass")
        assert status == pytest.ExitCode.USAGE_ERROR
        assert complaint in output

    def test_missing_feature_is_named(self, tmp_path: Path) -> None:
        test = "@pytest.mark.needs('nsid', 'listns')\ndef test_it(): assert False"
        prelude = f"import sys; sys.path.insert(0, {str(SUITES)!r})\n"
        prelude += "import nslib.features as f\n"
        prelude += "f.FEATURES['nsid'] = f.Feature(lambda: True, '6.18')\n"
        prelude += "f.FEATURES['listns'] = f.Feature(lambda: False, '6.19')"
        status, output = _run_suite(tmp_path, test, prelude=prelude)
        assert status == 0
        assert "needs listns (Linux 6.19)" in output

    def test_skips_without_root(self, tmp_path: Path) -> None:
        prelude = "import os; os.geteuid = lambda: 1000"
        status, output = _run_suite(tmp_path, "def test_it(): assert False", prelude=prelude)
        assert status == 0
        assert "needs root" in output


class TestCatalogue:
    ROWS: ClassVar[dict[str, dict[str, Any]]] = tomllib.loads(
        (SUITES / "catalogue.toml").read_text()
    )["behaviours"]

    def test_every_row_is_complete(self) -> None:
        for name, row in self.ROWS.items():
            assert row.keys() - {"fix", "waived"} == {"sentence", "source", "since"}, name
            assert row["sentence"].endswith("."), name
            assert re.fullmatch(r"any|\d+\.\d+(\.\d+)*", row["since"]), name

    def test_every_fix_names_title_and_releases(self) -> None:
        for name, row in self.ROWS.items():
            fix = row.get("fix", {"title": "none", "releases": ["1.0"]})
            assert fix.keys() - {"commit", "cve"} == {"title", "releases"}, name
            assert all(re.fullmatch(r"\d+\.\d+(\.\d+)?", one) for one in fix["releases"]), name

    def test_rows_of_each_area_are_numbered_through(self) -> None:
        areas: dict[str, list[int]] = {}
        for name in self.ROWS:
            area, _, number = name.rpartition("-")
            areas.setdefault(area, []).append(int(number))
        assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in areas.values())
        assert sum(map(len, areas.values())) == len(self.ROWS) == 380


class TestCoverage:
    def test_every_row_is_either_tested_or_waived(self) -> None:
        tested = {row for test in collect().tests for row in test.behaviours}
        waived = {row.id for row in load().values() if row.waived}
        assert tested | waived == load().keys()
        assert not tested & waived
        assert len(waived) <= 20

    def test_every_suite_ends_with_the_oracle(self) -> None:
        last = {test.suite: test.id for test in collect().tests}
        assert last.keys() >= {"ids", "lifetime", "listns"}
        assert all(last[suite].startswith(f"{suite}/oracle.py::") for suite in last), last

    def test_every_test_names_a_behaviour(self) -> None:
        assert [test.id for test in collect().tests if not test.behaviours] == []
