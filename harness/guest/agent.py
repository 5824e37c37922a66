# SPDX-License-Identifier: GPL-2.0-only
"""The half of the harness that runs in the guest, as its process 1.

As process 1 it cannot be killed by a test or chosen by the OOM killer, and every orphan becomes
its child. It says `hello`, takes in the suites, runs the tests that it is told to, and powers off.
"""

import base64
import gc
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from harness.guest import child, generated, mailbox
from harness.guest.archive import Vocabulary, unpack
from harness.guest.refresh import refresh
from harness.guest.runner import Runner, Settings
from harness.guest.suites import Suites
from harness.guest.wire import Decoder, Message, cut, encode

# What pytest does for people at terminals costs a guest a quarter of its start.
_PYTEST_OPTIONS = [
    f"-pno:{plugin}"
    for plugin in (
        "cacheprovider capture debugging doctest faulthandler junitxml legacypath logging "
        "monkeypatch pastebin recwarn reports setuponly setupplan stepwise subtests terminal "
        "threadexception tmpdir unittest unraisableexception warnings"
    ).split()
]
# Nobody can ask for more of a failed assert later.
_PYTEST_OPTIONS.append("--override-ini=verbosity_assertions=2")


class Channel:
    """The line to the harness: messages out at once, messages in when they are waited for."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._decoder = Decoder()
        self._inbox: list[Message] = []

    def send(self, event: str, **fields: object) -> None:
        """Send one event."""
        data = encode({"event": event, **fields})
        while data:
            data = data[os.write(self.descriptor, data) :]

    def receive(self) -> Message:
        """Wait for the next command."""
        while not self._inbox:
            self._inbox.extend(self._decoder.feed(os.read(self.descriptor, 1 << 16)))
        return self._inbox.pop(0)


class Agent:
    """A pytest plugin: takes the place of the loop that runs all collected tests."""

    def __init__(self, channel: Channel, lacking: list[str], folder: str) -> None:
        self._channel = channel
        self._lacking = lacking
        self._folder = folder
        self._parts: list[bytes] = []
        self._packed = b""
        self._vocabulary = Vocabulary()
        self.judge = child.Judge()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell the harness of a test file that cannot be imported."""
        if report.failed:
            self._channel.send("broken", what=report.nodeid, detail=cut(report.longreprtext))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> bool:
        """Collect nothing yet: the suites are not here."""
        return True

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Serve the harness until it has no more tests."""
        suites = Suites(session, self._folder)
        runner = Runner(self._channel.send, suites.item, self.judge)
        gc.collect()
        gc.freeze()
        # In this process nothing grows, and in a test's it would copy pages.
        gc.disable()
        self._hello()
        while (command := self._channel.receive()).get("command") != "end":
            match command:
                case {"command": "part", "data": str(data)}:
                    self._parts.append(base64.b64decode(data))
                case {"command": "load"}:
                    self._load(command)
                    runner.rehearse(_rehearsal(session, self._folder))
                case {"command": "run", "tests": [*tests]}:
                    settings = _settings(command)
                    # A guest that a test has spoilt is not used again; the harness starts another.
                    if runner.run([str(test) for test in tests], settings):
                        self._channel.send("done")
        return True

    def _hello(self) -> None:
        self._channel.send(
            "hello",
            release=platform.release(),
            arch=platform.machine(),
            python=platform.python_version(),
            cpus=os.cpu_count(),
            uptime=time.clock_gettime(time.CLOCK_BOOTTIME),
            lacking=self._lacking,
            mailbox=mailbox.is_readable(),
        )

    def _load(self, command: Message) -> None:
        """Take in the suites, which have come in parts or lie in the mailbox."""
        refresh(int(command["time"]), base64.b64decode(command["seed"]))  # type: ignore[call-overload, arg-type]
        if "length" in command:
            packed = mailbox.read(int(command["length"]))  # type: ignore[call-overload]
        else:
            packed = b"".join(self._parts)
        # A guest that is saved now is given other suites when it goes on.
        self._parts.clear()
        if packed != self._packed:
            self._vocabulary.renew(unpack(packed, self._folder))
            generated.learn(f"{self._folder}/generated")
            self._packed = packed
        from nslib import features

        probed = features.probe_all()
        offered = sorted(name for name, offered in probed.items() if offered)
        self._channel.send("ready", features=offered)


def _settings(command: dict[str, Any]) -> Settings:
    return Settings(command["timeout_scale"], command["splat"], command["budgets"], command["seed"])


def _rehearsal(session: pytest.Session, folder: str) -> child.Rehearsal:
    """Return what a process goes through while it waits: the way that all tests take."""
    from nslib import serving, standby

    module = pytest.Module.from_parent(session, path=Path(folder, "rehearsal.py"))
    item = pytest.Function.from_parent(module, name="rehearsal", callobj=serving.exercise)
    return child.Rehearsal(item, serving.stand_by, standby.is_waiting, standby.dismiss)


def _prefer_children_when_memory_is_short() -> None:
    """Make tests the OOM killer's first choice; process 1 is exempt, and passes the score on."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def serve(descriptor: int, lacking: list[str], folder: str) -> None:
    """Talk to the harness over `descriptor` until it is done.

    `folder` is where the suites go, `lacking` names the file systems that could not be mounted.
    """
    channel = Channel(descriptor)
    try:
        sys.path.insert(0, folder)
        agent = Agent(channel, lacking, folder)
        _prefer_children_when_memory_is_short()
        options = [*_PYTEST_OPTIONS, f"--rootdir={folder}", f"--config-file={folder}/pytest.ini"]
        # Not the folder itself: pytest would look for its conftest.py now, and never again.
        argv = [*options, "/"]
        status = pytest.main(argv, plugins=[agent, agent.judge])
        channel.send("bye", status=int(status))
    except BaseException:
        channel.send("broken", what="agent", detail=cut(traceback.format_exc()))
        raise
