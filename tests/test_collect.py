# SPDX-License-Identifier: GPL-2.0-only
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.collect import SUITES, Collection, collect
from harness.results import Outcome, TestResult
from vm.errors import ConfigError

FIRST = """
import pytest
from nslib import NS

@pytest.mark.behaviour("LNS-PAG-01", "LNS-PAG-02")
def test_b():
    raise AssertionError("nothing is run")

@pytest.mark.parametrize("kind", [NS.NET, NS.USER], ids=["net", "user"])
def test_a(kind):
    pass
"""


@pytest.fixture
def suites(tmp_path: Path, cache_of_stages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Suites that a test can change."""
    monkeypatch.setenv("NSCONFORM_CACHE", str(cache_of_stages))
    return written(tmp_path / "suites")


def written(suites: Path) -> Path:
    for suite, text in (("one", FIRST), ("two", "def test_c():\n    pass\n")):
        (suites / suite).mkdir(parents=True)
        (suites / suite / f"test_{suite}.py").write_text(text)
    return suites


def names(collection: Collection) -> list[str]:
    return [test.id.rpartition("::")[2] for test in collection.tests]


class TestCollection:
    """Collected where pytest's settings and Python's are the caller's own."""

    @pytest.fixture(scope="class")
    @classmethod
    def collection(
        cls, tmp_path_factory: pytest.TempPathFactory, cache_of_stages: Path
    ) -> Iterator[Collection]:
        folder = tmp_path_factory.mktemp("collection")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NSCONFORM_CACHE", str(cache_of_stages))
            patch.setenv("PYTEST_ADDOPTS", "-k nothing")
            patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
            yield collect(suites=written(folder / "suites"))

    def test_tests_in_their_order(self, collection: Collection) -> None:
        assert names(collection) == ["test_b", "test_a[net]", "test_a[user]", "test_c"]

    def test_test_before_it_ran(self, collection: Collection) -> None:
        behaviours = ("LNS-PAG-01", "LNS-PAG-02")
        assert collection.tests[0] == TestResult("one/test_one.py::test_b", "one", behaviours)
        assert collection.tests[0].outcome is Outcome.NOTRUN

    def test_code_as_pytest_compiles_it(self, collection: Collection) -> None:
        folder = collection.bytecode / str(collection.suites / "one").lstrip("/")
        assert list(folder.glob("test_one.*pytest*.pyc"))

    def test_nothing_is_written_beside_the_suites(self, collection: Collection) -> None:
        files = {path.name for path in collection.suites.rglob("*") if path.is_file()}
        assert files == {"test_one.py", "test_two.py"}

    def test_modules_are_those_of_the_suites_and_their_vocabulary(
        self, collection: Collection
    ) -> None:
        modules = collection.modules()
        assert modules["one/test_one.py"] == collection.suites / "one/test_one.py"
        assert modules["nslib/__init__.py"] == SUITES / "nslib/__init__.py"
        # Of our own suites nothing else: their conftest asks for behaviours of the catalogue.
        assert {name.split("/")[0] for name in modules} == {"one", "two", "nslib"}


class TestMemory:
    @pytest.fixture
    def processes(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The command of each process that was started to collect."""
        started: list[list[str]] = []
        real = subprocess.run

        def run(argv: list[str], **options: Any) -> object:
            started.append(argv)
            return real(argv, **options)

        monkeypatch.setattr("harness.collect.subprocess.run", run)
        return started

    def test_second_time_costs_nothing(self, suites: Path, processes: list[list[str]]) -> None:
        assert collect(suites=suites) == collect(suites=suites)
        assert len(processes) == 1

    def test_expressions_are_remembered_apart(self, suites: Path) -> None:
        assert names(collect("test_a or test_c", suites)) == [
            "test_a[net]",
            "test_a[user]",
            "test_c",
        ]
        assert names(collect("nothing", suites)) == []

    def test_change_is_noticed(self, suites: Path) -> None:
        collect(suites=suites)
        (suites / "two/test_three.py").write_text("def test_d(): ...")
        assert names(collect(suites=suites))[-1] == "test_c"
        assert "test_d" in names(collect(suites=suites))

    def test_change_that_leaves_size_and_time_is_compiled_anew(self, suites: Path) -> None:
        file = suites / "two/test_two.py"
        before = file.stat()
        collect(suites=suites)
        file.write_text(file.read_text().replace("test_c", "test_z"))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert "test_z" in names(collect(suites=suites))

    def test_changed_time_is_a_change(self, suites: Path, processes: list[list[str]]) -> None:
        # The compiled form is valid for the time of its source alone.
        collect(suites=suites)
        os.utime(suites / "two/test_two.py", (1, 1))
        collect(suites=suites)
        assert len(processes) == 2


class TestErrors:
    def complaint(self, suites: Path, expression: str = "") -> str:
        with pytest.raises(ConfigError) as caught:
            collect(expression, suites)
        prefix, _, complaint = str(caught.value).partition(": ")
        assert prefix == "the suites cannot be collected"
        assert "\n" not in complaint
        return complaint

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("import nowhere", "two/test_two.py: ModuleNotFoundError: No module named 'nowhere'"),
            ("def test_a(:", "two/test_two.py: SyntaxError: invalid syntax"),
            (
                "import pytest\n@pytest.mark.unheard_of\ndef test_a(): ...",
                "two/test_two.py: 'unheard_of' not found in `markers` configuration option",
            ),
            ("import os\nos._exit(1)", "pytest printed nothing"),
        ],
        ids=["import", "syntax", "marker", "exit"],
    )
    def test_file_that_cannot_be_imported(self, suites: Path, text: str, complaint: str) -> None:
        (suites / "two/test_two.py").write_text(text + "\n")
        assert self.complaint(suites) == complaint

    def test_is_not_remembered(self, suites: Path) -> None:
        good = (suites / "two/test_two.py").read_text()
        (suites / "two/test_two.py").write_text("import nowhere\n")
        self.complaint(suites)
        (suites / "two/test_two.py").write_text(good)
        assert len(collect(suites=suites).tests) == 4

    def test_expression_that_is_none(self, suites: Path) -> None:
        assert "and and" in self.complaint(suites, "a and and")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nowhere: no folder of suites$"):
            collect(suites=tmp_path / "nowhere")
