# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness.plan import Selection, select
from vm.errors import ConfigError

TESTS = {
    "listing": """
import pytest
@pytest.mark.behaviour("LNS-PAG-01", "LNS-PAG-02")
def test_pages(): ...
@pytest.mark.behaviour("LNS-ARG-01")
def test_arguments(): ...
""",
    "lists": "def test_pages_too(): ...\n",
    "races": "def test_race(): ...\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suites = tmp_path_factory.mktemp("suites")
    for suite, text in TESTS.items():
        (suites / suite).mkdir()
        (suites / suite / f"test_{suite}.py").write_text(text)
    return suites


@pytest.fixture(autouse=True)
def cache(cache_of_stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSCONFORM_CACHE", str(cache_of_stages))


def selected(folder: Path, **wanted: object) -> list[str]:
    _, tests = select(Selection(folder=folder, **wanted))  # type: ignore[arg-type]
    return [test.id.rpartition("::test_")[2] for test in tests]


class TestSelect:
    @pytest.mark.parametrize(
        ("wanted", "names"),
        [
            ({}, ["pages", "arguments", "pages_too"]),
            ({"long": True}, ["pages", "arguments", "pages_too", "race"]),
            ({"suites": ("races",)}, ["race"]),
            ({"suites": ("lists",)}, ["pages_too"]),
            ({"suites": ("lists", "listing")}, ["pages", "arguments", "pages_too"]),
            ({"behaviours": ("LNS-PAG-02",)}, ["pages"]),
            ({"behaviours": ("LNS-ARG-01", "LNS-PAG-01")}, ["pages", "arguments"]),
            ({"expression": "pages"}, ["pages", "pages_too"]),
            ({"expression": "pages", "suites": ("lists",)}, ["pages_too"]),
        ],
    )
    def test_conditions(self, folder: Path, wanted: dict[str, object], names: list[str]) -> None:
        assert selected(folder, **wanted) == names

    def test_image_holds_all_that_the_expression_left(self, folder: Path) -> None:
        collection, _ = select(Selection(folder=folder, suites=("lists",)))
        assert len(collection.tests) == 4


class TestRefusal:
    @pytest.mark.parametrize(
        ("wanted", "complaint"),
        [
            ({"suites": ("listin",)}, "there is no suite listin; near it: listing, lists"),
            ({"suites": ("zebra",)}, "there is no suite zebra; near it: listing, lists"),
            ({"behaviours": ("LNS-PAG-1",)}, r"there is no behaviour LNS-PAG-1; near it: LNS-PAG-"),
            ({"expression": "zebra"}, "no test is selected: `nsconform list` shows what there is"),
            ({"suites": ("lists",), "behaviours": ("LNS-PAG-01",)}, "no test is selected"),
            # It is the expression that leaves nothing, not the suite that is missing.
            ({"suites": ("lists",), "expression": "arguments"}, "no test is selected"),
        ],
    )
    def test_in_one_line(self, folder: Path, wanted: dict[str, object], complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint) as caught:
            selected(folder, **wanted)
        assert "\n" not in str(caught.value)
