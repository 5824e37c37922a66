# SPDX-License-Identifier: GPL-2.0-only
"""What every test has: its behaviours and features checked, root, a place for observations."""

import json
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from nslib import FEATURES, has_feature
from nslib.budgets import budget

Observe = Callable[[str, object], None]

_SUITES = Path(__file__).parent
# Its name is no test file's, so that it is collected only where it is wanted.
pytest.register_assert_rewrite("oracle", "nslib.exiting")


@cache
def _behaviours() -> frozenset[str]:
    """Ids of the catalogue: its table headers. Parsing it as TOML takes long in a slow guest."""
    text = Path(__file__).with_name("catalogue.toml").read_text()
    return frozenset(re.findall(r"^\[behaviours\.([A-Z0-9-]+)\]$", text, re.MULTILINE))


def _marked(item: pytest.Item, marker: str) -> Iterable[str]:
    return (name for mark in item.iter_markers(marker) for name in mark.args)


class _Oracle(pytest.Module):
    """The tests of suites/oracle.py, in the place of a file of a suite."""

    def _getobj(self) -> ModuleType:
        return import_module("oracle")

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        for item in super().collect():
            # pytest looks for the hooks of an item, such as ours, from an existing file.
            item.path = _SUITES / "oracle.py"
            yield item


class _Suite(pytest.Directory):
    """A folder of test files. When these have run, the lists must still be right: the oracle."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        for path in sorted(self.path.iterdir()):
            yield from self.ihook.pytest_collect_file(file_path=path, parent=self)
        yield _Oracle.from_parent(self, path=self.path / "oracle.py")


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Let our suites be collected in our way."""
    is_suite = path.parent == _SUITES and not (path / "__init__.py").exists()
    return _Suite.from_parent(parent, path=path) if is_suite else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests whose markers name what does not exist."""
    for item in items:
        if unknown := set(_marked(item, "behaviour")) - _behaviours():
            raise pytest.UsageError(f"{item.nodeid}: not in catalogue.toml: {sorted(unknown)}")
        if unknown := set(_marked(item, "needs")) - FEATURES.keys():
            raise pytest.UsageError(f"{item.nodeid}: not in nslib.FEATURES: {sorted(unknown)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot be tested here, and say why."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for name in _marked(item, "needs"):
        if not has_feature(name):
            pytest.skip(f"needs {name} (Linux {FEATURES[name].since})")


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """How long the test may explore, which is marked with its share of a budget."""
    kind, share = request.node.get_closest_marker("budget").args
    return budget(kind) * float(share)


@pytest.fixture
def observe(request: pytest.FixtureRequest) -> Observe:
    """Record a value that the test saw (anything that JSON holds), for comparing kernels."""

    def record(name: str, value: object) -> None:
        # What JSON makes of it is what others see: a Counter, for one, is a dictionary there.
        request.node.user_properties.append((name, json.loads(json.dumps(value))))

    return record
