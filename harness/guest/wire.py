# SPDX-License-Identifier: GPL-2.0-only
"""The lines that harness and agent exchange: one JSON object each.

A test may write anything to the guest's serial port. A line of ours begins with a line feed, so
that rubbish before it ends there, and is written by one write(2), which the kernel's tty layer
does not mix with the writes of others (drivers/tty/tty_io.c, iterate_tty_write).
"""

import json
from collections.abc import Iterator

# A longer line is rubbish. Text is cut before it is sent, to characters of up to 12 bytes each
# ("\ud83d\ude00").
LINE_LIMIT = 1 << 20
TEXT_LIMIT = 64 << 10
REASON_LIMIT = 1000

Message = dict[str, object]


def encode(message: Message) -> bytes:
    """Return the bytes of one message."""
    return b"\n" + json.dumps(message).encode() + b"\n"


def cut(text: str) -> str:
    """Shorten text that is too long for a message, keeping both ends."""
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n[... {len(text) - TEXT_LIMIT} characters left out ...]\n{text[-half:]}"


class Decoder:
    """Cuts a byte stream into messages and counts the lines that are none."""

    def __init__(self) -> None:
        self.rubbish = 0
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what has arrived and yield each message that is now complete."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > LINE_LIMIT:
            self.rubbish += 1
            self._buffer = b""
        for line in lines:
            message = _parse(line)
            if message is not None:
                yield message
            elif line.strip():
                self.rubbish += 1


def _parse(line: bytes) -> Message | None:
    if not line.startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
