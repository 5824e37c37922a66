# SPDX-License-Identifier: GPL-2.0-only
import base64
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.events import Broken, Done, Event, Finish, Heartbeat, Hello, Ready, Start
from harness.exploration import Exploration
from harness.guest.wire import LINE_LIMIT, encode
from harness.protocol import Channel
from harness.results import Outcome
from vm.errors import ConfigError

EVENTS = Path(__file__).parent / "data" / "events"
SECONDS = 20


class Guest:
    """The other end of a channel, and what the channel recorded."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.recorded: list[bytes] = []
        self.channel = Channel(ours, self.recorded.append)
        self._ours = ours

    def says(self, *lines: object) -> None:
        for line in lines:
            data = line if isinstance(line, bytes) else json.dumps(line).encode()
            self.socket.sendall(data + b"\n")

    def everything(self) -> list[Event]:
        """What the harness hears until the guest is gone."""
        self.socket.shutdown(socket.SHUT_WR)
        events = []
        while event := self.channel.receive(SECONDS):
            events.append(event)
        return events

    def close(self) -> None:
        self.socket.close()
        self._ours.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()


class TestReceive:
    def test_every_kind(self, guest: Guest) -> None:
        guest.says(
            {"event": "hello", "release": "7.3.4", "python": "3.11"},
            {"event": "ready", "features": ["listns"]},
            {"event": "start", "test": "a"},
            {"event": "heartbeat"},
            {"event": "finish", "test": "a", "outcome": "fail", "duration": 1, "stuck": True},
            {"event": "broken", "what": "agent", "detail": "why"},
            {"event": "done"},
            {"event": "bye", "status": 0},
        )
        assert guest.everything() == [
            Hello("7.3.4"),
            Ready(("listns",)),
            Start("a"),
            Heartbeat(),
            Finish("a", Outcome.FAIL, 1.0, stuck=True),
            Broken("agent", "why"),
            Done(),
        ]

    @pytest.mark.parametrize("stream", ["complete", "retry"])
    def test_recorded_stream(self, guest: Guest, stream: str) -> None:
        text = (EVENTS / f"{stream}.jsonl").read_bytes()
        guest.socket.sendall(text)
        kinds = [type(event).__name__.lower() for event in guest.everything()]
        said = [json.loads(line)["event"] for line in text.splitlines()]
        assert kinds == [kind for kind in said if kind not in ("plan", "bye")]
        assert guest.channel.rubbish == 0

    @pytest.mark.parametrize(
        "line",
        [
            b"rubbish",
            b'{"event": "finish", "test": "a"',
            {"event": "hello"},
            {"event": "hello", "release": 7, "features": []},
            {"event": "finish", "test": 3, "outcome": "pass"},
            {"event": "finish", "test": "a", "outcome": "perfect"},
            {"event": "finish", "test": "a", "outcome": "pass", "splats": [1]},
            {"event": "finish", "test": "a", "outcome": "pass", "duration": None},
            {"event": "start"},
        ],
        ids=repr,
    )
    def test_what_is_no_event_is_counted_and_not_kept(self, guest: Guest, line: object) -> None:
        guest.says(line, {"event": "done"})
        assert guest.everything() == [Done()]
        assert guest.channel.rubbish == 1
        assert [json.loads(line) for line in guest.recorded] == [{"event": "done"}]

    def test_events_are_recorded_as_lines(self, guest: Guest) -> None:
        guest.says({"event": "start", "test": "line\nfeed", "more": 1})
        guest.everything()
        (line,) = guest.recorded
        assert b"\n" not in line
        assert json.loads(line) == {"event": "start", "test": "line\nfeed", "more": 1}

    def test_record_that_refuses_loses_no_event_in_silence(self) -> None:
        def refuse(_: bytes) -> None:
            raise ConfigError("the disk is full")

        ours, guests = socket.socketpair()
        with ours, guests:
            guests.sendall(encode({"event": "done"}))
            with pytest.raises(ConfigError, match="the disk is full"):
                Channel(ours, refuse).receive(SECONDS)

    def test_nothing_in_time(self, guest: Guest) -> None:
        assert guest.channel.receive(0.02) is None
        assert not guest.channel.ended

    def test_rubbish_is_no_sign_of_life(self, guest: Guest) -> None:
        guest.says(b"x", b"y")
        assert guest.channel.receive(0.05) is None
        assert not guest.channel.ended

    def test_end(self, guest: Guest) -> None:
        guest.says({"event": "done"})
        guest.socket.close()
        assert guest.channel.receive(SECONDS) == Done()
        assert not guest.channel.ended
        assert guest.channel.receive(SECONDS) is None
        assert guest.channel.ended

    def test_event_that_is_cut_off_by_the_end_is_none(self, guest: Guest) -> None:
        guest.socket.sendall(b'\n{"event": "finish", "test": "a", "outcome": "pass"}')
        assert guest.everything() == []


class TestSend:
    def command(self, guest: Guest) -> object:
        guest.socket.settimeout(SECONDS)
        return json.loads(guest.socket.recv(1 << 16))

    def test_run(self, guest: Guest) -> None:
        guest.channel.run(["a", "b"], 2.5, "BUG: ", Exploration(30, 40, 7))
        assert self.command(guest) == {
            "command": "run", "tests": ["a", "b"], "timeout_scale": 2.5, "splat": "BUG: ",
            "budgets": {"race": 30, "model": 40}, "seed": 7,
        }  # fmt: skip

    def test_suites_in_the_mailbox(self, guest: Guest) -> None:
        mailbox: list[bytes] = []
        guest.channel.load(b"suites", mailbox.append, SECONDS)
        command = self.command(guest)
        assert isinstance(command, dict)
        assert (command["command"], command["length"]) == ("load", 6)
        assert abs(command["time"] / 1e9 - time.time()) < SECONDS
        assert len(base64.b64decode(command["seed"])) == 32
        assert mailbox == [b"suites"]

    def test_suites_in_parts(self, guest: Guest) -> None:
        archive = os.urandom(1 << 20)
        sending = threading.Thread(target=guest.channel.load, args=(archive, None, SECONDS))
        sending.start()
        with guest.socket.makefile("rb") as stream:
            commands: list[dict[str, Any]] = []
            while not commands or commands[-1]["command"] != "load":
                line = stream.readline()
                commands += [json.loads(line)] if line.strip() else []
                assert len(line) < LINE_LIMIT // 2
        sending.join()
        *parts, load = commands
        assert b"".join(base64.b64decode(part["data"]) for part in parts) == archive
        assert "length" not in load

    def test_suites_that_nobody_takes_in(self, guest: Guest) -> None:
        started = time.monotonic()
        guest.channel.load(os.urandom(1 << 20), None, 0.1)
        assert time.monotonic() - started < SECONDS

    def test_to_a_guest_that_is_gone(self, guest: Guest) -> None:
        guest.socket.close()
        guest.channel.run(["a"], 1.0, "", Exploration())
        assert guest.channel.receive(SECONDS) is None
        assert guest.channel.ended
