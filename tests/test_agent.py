# SPDX-License-Identifier: GPL-2.0-only
"""The agent's talk with the harness, without a guest around it."""

import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest

from harness.guest import agent, archive, mailbox
from harness.guest.wire import encode
from harness.protocol import Channel

SECONDS = 10


class NoRunner:
    """Takes the place of what runs tests."""

    def __init__(self, *_: object) -> None:
        pass

    def rehearse(self, _item: object) -> None:
        pass


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the agent from what it does to the whole machine or process, and from pytest."""
    monkeypatch.setattr(agent, "gc", SimpleNamespace(collect=int, freeze=int, disable=int))
    monkeypatch.setattr(agent, "refresh", lambda *_: None)
    monkeypatch.setattr(agent, "Suites", lambda *_: SimpleNamespace(item=None))
    monkeypatch.setattr(agent, "Runner", NoRunner)
    monkeypatch.setattr(agent, "_rehearsal", lambda *_: None)
    monkeypatch.setattr(agent, "generated", SimpleNamespace(learn=lambda _: None))
    features = SimpleNamespace(probe_all=dict)
    monkeypatch.setitem(sys.modules, "nslib", SimpleNamespace(features=features))


@dataclass(frozen=True)
class Load:
    """What an agent is given at once: files, and whether through the memory that it shares."""

    files: Mapping[str, bytes]
    shared: bool = False

    @property
    def archive(self) -> bytes:
        return archive.pack({name: (content, 0) for name, content in self.files.items()})


@pytest.fixture
def loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _bare: None
) -> Callable[..., dict[str, str]]:
    """Has one agent take in loads, and returns what it has of them in the end."""

    def load(*loads: Load) -> dict[str, str]:
        filled: list[bytes] = []
        contents = (content for content in filled)
        monkeypatch.setattr(mailbox, "read", lambda length: next(contents)[:length])
        monkeypatch.setattr(mailbox, "is_readable", lambda: False)
        ours, guests = socket.socketpair()
        with ours, guests:
            channel = Channel(ours, lambda _: None)
            for one in loads:
                channel.load(one.archive, filled.append if one.shared else None, SECONDS)
            ours.sendall(encode({"command": "end"}))
            made = agent.Agent(agent.Channel(guests.fileno()), [], str(tmp_path / "suites"))
            # pytest has no part in this.
            made.pytest_runtestloop(cast(pytest.Session, None))
        return {file.name: file.read_text() for file in (tmp_path / "suites").iterdir()}

    return load


class TestLoad:
    """A guest that goes on from a snapshot has been given suites before it was saved."""

    BEFORE: ClassVar = {"a": b"old", "b": b"old"}
    AFTER: ClassVar = {"a": b"new"}

    @pytest.mark.parametrize("first", [True, False], ids=["memory", "parts"])
    @pytest.mark.parametrize("second", [True, False], ids=["memory", "parts"])
    def test_last_one_counts(
        self, loaded: Callable[..., dict[str, str]], first: bool, second: bool
    ) -> None:
        assert loaded(Load(self.BEFORE, first)) == {"a": "old", "b": "old"}
        assert loaded(Load(self.BEFORE, first), Load(self.AFTER, second)) == {"a": "new"}


class TestArchive:
    WHOLE = archive.pack({"a": (b"content", 0)})

    @pytest.mark.parametrize(
        "damaged", [WHOLE + WHOLE, WHOLE + b"\0", WHOLE[:-1], b""],
        ids=["two", "longer", "shorter", "none"],
    )  # fmt: skip
    def test_that_is_not_one_whole_is_refused(self, tmp_path: Path, damaged: bytes) -> None:
        (tmp_path / "before").touch()
        with pytest.raises(ValueError, match="the suites have not arrived as they were sent"):
            archive.unpack(damaged, str(tmp_path))
        assert [file.name for file in tmp_path.iterdir()] == ["before"]
