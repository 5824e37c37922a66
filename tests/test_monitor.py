# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's monitor, with somebody else at the other end."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, cast

import pytest

from vm.errors import SnapshotError
from vm.monitor import Monitor

GREETING = {"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}
DONE: dict[str, Any] = {"return": {}}
COMPLETED = {"return": {"status": "completed"}}


class Qemu:
    """Answers each command with the next of the lines that it is to say, then hangs up."""

    def __init__(self, connection: socket.socket) -> None:
        self.asked: list[dict[str, Any]] = []
        self._connection = connection
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._answers: Sequence[object] = ()

    def says(self, *answers: object) -> None:
        self._answers = (DONE, *answers)
        self._thread.start()

    def commands(self) -> list[str]:
        """What it was asked to do, once it has hung up."""
        self._thread.join(10)
        return [one["execute"] for one in self.asked[1:]]

    def _talk(self) -> None:
        with self._connection, self._connection.makefile("rw") as both:
            stream = cast(TextIO, both)
            print(json.dumps(GREETING), file=stream, flush=True)
            for answer in self._answers:
                if not (request := _object(stream)):
                    return
                self.asked.append(json.loads(request))
                for line in answer if isinstance(answer, tuple) else (answer,):
                    print(line if isinstance(line, str) else json.dumps(line), file=stream)
                stream.flush()


def _object(stream: TextIO) -> str:
    """Read one JSON object; nothing says where it ends but its last brace."""
    text = ""
    while not text or text.count("{") > text.count("}"):
        if not (character := stream.read(1)):
            return ""
        text += character
    return text


@pytest.fixture
def ends() -> Iterator[tuple[Monitor, Qemu]]:
    ours, its = socket.socketpair()
    with ours:
        yield Monitor(ours), Qemu(its)


def test_guest_is_stopped_and_goes_on(ends: tuple[Monitor, Qemu]) -> None:
    monitor, qemu = ends
    qemu.says(DONE, DONE)
    with monitor.paused():
        assert [one["execute"] for one in qemu.asked] == ["qmp_capabilities", "stop"]
    assert qemu.commands() == ["stop", "cont"]


def test_events_in_between(ends: tuple[Monitor, Qemu]) -> None:
    monitor, qemu = ends
    event = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}, "data": {}}
    qemu.says((event, DONE, event), (event, DONE))
    with monitor.paused():
        pass
    assert qemu.commands() == ["stop", "cont"]


def test_guest_goes_on_whatever_happens(ends: tuple[Monitor, Qemu]) -> None:
    monitor, qemu = ends
    qemu.says(DONE, DONE)
    with pytest.raises(OSError, match="full"), monitor.paused():
        raise OSError("full")
    assert qemu.commands() == ["stop", "cont"]


def test_guest_goes_on_if_the_answer_is_late(
    ends: tuple[Monitor, Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vm.monitor._ANSWER_SECONDS", 0.1)
    monitor, qemu = ends
    qemu.says((), DONE)
    with pytest.raises(SnapshotError, match="does not answer"), monitor.paused():
        pytest.fail("it has not stopped")
    assert qemu.commands() == ["stop", "cont"]


class TestState:
    def test_is_written(self, ends: tuple[Monitor, Qemu]) -> None:
        monitor, qemu = ends
        qemu.says(DONE, DONE, {"return": {"status": "active"}}, COMPLETED)
        monitor.write_state("/proc/self/fd/7", 10)
        assert qemu.commands() == ["migrate-set-capabilities", "migrate", *["query-migrate"] * 2]
        assert qemu.asked[1]["arguments"] == {
            "capabilities": [{"capability": "x-ignore-shared", "state": True}]
        }
        assert qemu.asked[2]["arguments"] == {"uri": "file:/proc/self/fd/7"}

    def test_is_read(self, ends: tuple[Monitor, Qemu]) -> None:
        monitor, qemu = ends
        # Before it begins there is no status yet.
        qemu.says(DONE, DONE, DONE, COMPLETED, DONE)
        monitor.read_state("/proc/self/fd/7", 10)
        assert qemu.commands()[1:] == ["migrate-incoming", *["query-migrate"] * 2, "cont"]

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_that_fails(self, ends: tuple[Monitor, Qemu], status: str) -> None:
        monitor, qemu = ends
        qemu.says(DONE, DONE, {"return": {"status": status}})
        with pytest.raises(SnapshotError, match=f"QEMU does not get through .*: {status}"):
            monitor.write_state("x", 10)

    def test_that_takes_for_ever(self, ends: tuple[Monitor, Qemu]) -> None:
        monitor, qemu = ends
        qemu.says(DONE, DONE, *[{"return": {"status": "active"}}] * 1000)
        with pytest.raises(SnapshotError, match=r"QEMU does not get through .*: active"):
            monitor.write_state("x", 0.05)

    def test_that_is_refused(self, ends: tuple[Monitor, Qemu]) -> None:
        monitor, qemu = ends
        qemu.says(DONE, {"error": {"class": "GenericError", "desc": "no such file"}})
        with pytest.raises(SnapshotError, match="QEMU refuses `migrate`: no such file"):
            monitor.write_state("x", 10)


class TestNoAnswer:
    def test_hangs_up(self, ends: tuple[Monitor, Qemu]) -> None:
        monitor, qemu = ends
        qemu.says(DONE)
        with pytest.raises(SnapshotError, match="does not answer `migrate`"):
            monitor.write_state("x", 10)

    def test_was_never_there(self) -> None:
        ours, its = socket.socketpair()
        its.close()
        with ours, pytest.raises(SnapshotError, match="does not answer"):
            Monitor(ours).write_state("x", 10)

    @pytest.mark.parametrize("line", ["rubbish", "[1", ""])
    def test_rubbish(self, ends: tuple[Monitor, Qemu], line: str) -> None:
        monitor, qemu = ends
        qemu.says((line, DONE))
        with pytest.raises(SnapshotError, match="does not answer"):
            monitor.write_state("x", 10)


def test_guest_is_not_stopped_by_a_state_that_takes_too_long(ends: tuple[Monitor, Qemu]) -> None:
    monitor, qemu = ends
    active, cancelled = ({"return": {"status": status}} for status in ("active", "cancelled"))
    qemu.says(DONE, DONE, active, DONE, active, cancelled)
    with pytest.raises(SnapshotError, match="active"):
        monitor.write_state("/dev/null", 0)
    assert qemu.commands()[2:] == ["query-migrate", "migrate_cancel", *["query-migrate"] * 2]
