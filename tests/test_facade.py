# SPDX-License-Identifier: GPL-2.0-only
import ast
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vm.facade import on_demand


def put_off(source: str, name: str = "facade") -> Any:
    module = ModuleType(name)
    exec(compile(on_demand(ast.parse(source)), name, "exec"), vars(module))  # noqa: S102
    return module


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules of a package `parts` that have been imported; each has a class Part."""
    (tmp_path / "parts").mkdir()
    seen: set[str] = set()
    monkeypatch.setattr(sys, "imported_parts", seen, raising=False)
    for name in ("__init__", "one", "two"):
        text = "import sys\nsys.imported_parts.add(__name__)\nclass Part:\n    size = 1\n"
        (tmp_path / "parts" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("parts", "parts.one", "parts.two"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return seen


class TestOnDemand:
    def test_imports_when_asked(self, imported: set[str]) -> None:
        facade = put_off("from parts.one import Part as First\nfrom parts.two import Part")
        assert imported == set()
        assert facade.First is sys.modules["parts.one"].Part
        assert imported == {"parts", "parts.one"}
        assert facade.Part is sys.modules["parts.two"].Part

    @pytest.mark.usefixtures("imported")
    def test_asks_once(self) -> None:
        facade = put_off("from parts.one import Part")
        assert "Part" not in vars(facade)
        first = facade.Part
        assert vars(facade)["Part"] is first

    @pytest.mark.usefixtures("imported")
    def test_submodule(self) -> None:
        facade = put_off("from parts import two")
        assert facade.two is sys.modules.get("parts.two")

    def test_alias_of_an_attribute(self, imported: set[str]) -> None:
        facade = put_off("from parts.one import Part\nsize = Part.size\nbits = size.real")
        assert imported == set()
        assert (facade.size, facade.bits) == (1, 1)

    def test_name_that_other_code_uses(self, imported: set[str]) -> None:
        source = (
            "from parts.one import Part\nfrom parts.two import Part as Other\nclass Mine({}): ..."
        )
        facade = put_off(source.format("Part"))
        assert issubclass(facade.Mine, facade.Part)
        assert imported == {"parts", "parts.one"}

    @pytest.mark.usefixtures("imported")
    def test_alias_that_other_code_uses(self) -> None:
        source = "from parts.one import Part\nsize = Part.size\ntwice = 2 * size"
        assert put_off(source).twice == 2

    def test_star_and_plain_import_are_done_at_once(self, imported: set[str]) -> None:
        facade = put_off("from parts.one import *\nimport parts.two")
        assert imported == {"parts", "parts.one", "parts.two"}
        assert vars(facade)["Part"] is sys.modules["parts.one"].Part

    def test_name_that_is_none(self) -> None:
        facade = put_off("from parts.one import Part")
        assert not hasattr(facade, "nothing")
        with pytest.raises(AttributeError, match=r"^module 'facade' has no attribute 'nothing'$"):
            _ = facade.nothing

    def test_names_are_listed(self) -> None:
        assert {"Part", "other"} <= set(dir(put_off("from parts.one import Part\nother = 1")))

    def test_module_with_a_getattr_of_its_own(self, imported: set[str]) -> None:
        source = "from parts.one import Part\ndef __getattr__(name): return 7"
        facade = put_off(source)
        assert "parts.one" in imported
        assert facade.nothing == 7

    def test_docstring_and_future_stay_in_front(self) -> None:
        source = '"""Why."""\nfrom __future__ import annotations\ndef f(a: nowhere): ...'
        assert put_off(source).__doc__ == "Why."


class TestPytest:
    @pytest.fixture(scope="class")
    @classmethod
    def facade(cls) -> ModuleType:
        facade = put_off(Path(pytest.__file__).read_text(), "pytest")
        assert isinstance(facade, ModuleType)
        return facade

    @pytest.mark.parametrize(
        "name", sorted({*pytest.__all__, *(n for n in vars(pytest) if not n.startswith("_"))})
    )
    def test_each_name_is_the_same_object(self, facade: ModuleType, name: str) -> None:
        # Equal and not identical: set_trace is a method, which each access binds anew.
        assert getattr(facade, name) == getattr(pytest, name)

    def test_names_for_everybody(self, facade: ModuleType) -> None:
        assert facade.__all__ == pytest.__all__
        assert facade.__doc__ == pytest.__doc__
