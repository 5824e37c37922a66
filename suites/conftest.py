# SPDX-License-Identifier: GPL-2.0-only
"""What every test has: its behaviours and features checked, root, a place for observations."""

import json
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
from nslib import FEATURES, has_feature

Observe = Callable[[str, object], None]


@cache
def _behaviours() -> frozenset[str]:
    """Ids of the catalogue: its table headers. Parsing it as TOML takes long in a slow guest."""
    text = Path(__file__).with_name("catalogue.toml").read_text()
    return frozenset(re.findall(r"^\[behaviours\.([A-Z0-9-]+)\]$", text, re.MULTILINE))


def _marked(item: pytest.Item, marker: str) -> Iterable[str]:
    return (name for mark in item.iter_markers(marker) for name in mark.args)


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
def observe(request: pytest.FixtureRequest) -> Observe:
    """Record a value that the test saw (anything that JSON holds), for comparing kernels."""

    def record(name: str, value: object) -> None:
        json.dumps(value)
        request.node.user_properties.append((name, value))

    return record
