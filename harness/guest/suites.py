# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the suites, as pytest finds them in the guest."""

import gc
from pathlib import Path

import pytest


class Suites:
    """The tests in a folder. A file is imported when one of its tests is asked for: importing all
    of them takes longer than the first test can wait."""

    def __init__(self, session: pytest.Session, folder: str) -> None:
        self._session = session
        self._folder = folder
        self._roots: list[pytest.Collector] = []
        self._children: dict[pytest.Collector, list[pytest.Item | pytest.Collector]] = {}
        self._files: dict[str, dict[str, pytest.Item]] = {}

    def item(self, test: str) -> pytest.Item | None:
        """Return the test with an id; None if there is none, or if its file cannot be imported."""
        file = test.partition("::")[0]
        if file not in self._files:
            self._files[file] = self._items(file)
        return self._files[file].get(test)

    def _items(self, file: str) -> dict[str, pytest.Item]:
        items = [item for node in self._nodes(file) for item in self._session.genitems(node)]
        config = self._session.config
        config.hook.pytest_collection_modifyitems(session=self._session, config=config, items=items)
        # A collection in a test's process would copy every page that holds an object.
        gc.freeze()
        return {item.nodeid: item for item in items}

    def _nodes(self, file: str) -> list[pytest.Item | pytest.Collector]:
        """Return pytest's nodes of a file, going down from the top folder by the path's names."""
        if not self._roots:
            found = self._session.perform_collect([self._folder], genitems=False)
            self._roots = [node for node in found if isinstance(node, pytest.Collector)]
        nodes: list[pytest.Item | pytest.Collector] = [*self._roots]
        path = Path(self._folder)
        for name in file.split("/"):
            path /= name
            inner = [child for node in nodes for child in self._inside(node)]
            nodes = [child for child in inner if child.path == path]
        return nodes

    def _inside(self, node: pytest.Item | pytest.Collector) -> list[pytest.Item | pytest.Collector]:
        if not isinstance(node, pytest.Collector):
            return []
        if node not in self._children:
            report = node.ihook.pytest_make_collect_report(collector=node)
            node.ihook.pytest_collectreport(report=report)
            self._children[node] = report.result or []
        return self._children[node]
