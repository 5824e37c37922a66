# SPDX-License-Identifier: GPL-2.0-only
"""The harness' end of the results channel."""

import base64
import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence

from harness.decode import decode
from harness.events import KINDS, Event
from harness.exploration import Exploration
from harness.guest.wire import Decoder, Message, encode
from vm.errors import ConfigError

# In base64 well below the longest line; an emulated serial port takes 40 kB/s.
_PART = 1 << 16
_SEND_SECONDS = 60
_BACKLOG = 1 << 14
_SEED = 32


class Channel:
    """One boot's results channel. `record` gets every line that the guest wrote, as it came."""

    def __init__(self, connection: socket.socket, record: Callable[[bytes], None]) -> None:
        self._connection = connection
        self._record = record
        self._decoder = Decoder()
        self._inbox: list[Event] = []
        self.ended = False

    @property
    def rubbish(self) -> int:
        """How many lines came that were no events."""
        return self._decoder.rubbish

    def load(self, archive: bytes, mailbox: Callable[[bytes], None] | None, seconds: float) -> None:
        """Hand the suites over, in the `mailbox` if there is one, else through the channel; and
        what a guest that was asleep does not know: the time, and fresh randomness.

        A guest that takes longer than `seconds` for a part gets no more.
        """
        where: Message = {}
        if mailbox is not None:
            mailbox(archive)
            where["length"] = len(archive)
        else:
            # The time that follows must not be old when it arrives.
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BACKLOG)
            for start in range(0, len(archive), _PART):
                part = base64.b64encode(archive[start : start + _PART])
                if not self._send({"command": "part", "data": part.decode()}, seconds):
                    return
        seed = base64.b64encode(os.urandom(_SEED))
        self._send({"command": "load", "time": time.time_ns(), "seed": seed.decode(), **where})

    def run(
        self, tests: Sequence[str], timeout_scale: float, splat: str, exploration: Exploration
    ) -> None:
        """Tell the agent to run tests; `splat` is the expression of a kernel's complaint."""
        self._send(
            {
                "command": "run",
                "tests": list(tests),
                "timeout_scale": timeout_scale,
                "splat": splat,
                **exploration.message(),
            }
        )

    def receive(self, seconds: float) -> Event | None:
        """Return the next event, None when none has come in time or the guest has gone.

        Raises what `record` raises.
        """
        deadline = time.monotonic() + seconds
        while not self._inbox and not self.ended and (left := deadline - time.monotonic()) > 0:
            self._connection.settimeout(left)
            try:
                data = self._connection.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                data = b""
            self.ended = not data
            self._inbox.extend(filter(None, map(self._event, self._decoder.feed(data))))
        return self._inbox.pop(0) if self._inbox else None

    def _event(self, message: Message) -> Event | None:
        kind = KINDS.get(str(message.get("event")))
        if kind is None:
            return None
        try:
            event = decode(kind, message, "event")
        except ConfigError:
            self._decoder.rubbish += 1
            return None
        self._record(encode(message).strip())
        return event

    def _send(self, command: Message, seconds: float = _SEND_SECONDS) -> bool:
        # The guest may have gone meanwhile; the next `receive` tells.
        with contextlib.suppress(OSError):
            self._connection.settimeout(seconds)
            self._connection.sendall(encode(command))
            return True
        return False
