# SPDX-License-Identifier: GPL-2.0-only
"""Messages with file descriptors between a test and its tasks, over a pair of sockets."""

import socket
import struct
from collections.abc import Sequence

from .syscalls import close_range
from .waiting import scaled

ANSWER_SECONDS = 20.0
"""How long an answer may take on a fast machine; the deadline of a test is shorter."""

_HEADER = struct.Struct("<IB")  # length of the payload, number of file descriptors
_MAX_FDS = 64


class Channel:
    """One end of the pair: sends and receives whole messages of bytes and fds."""

    def __init__(self, fd: int) -> None:
        """Take over the socket `fd`."""
        self._socket = socket.socket(fileno=fd)

    def fileno(self) -> int:
        """Number of the socket's fd."""
        return self._socket.fileno()

    def limit_waiting(self) -> None:
        """From now on receive() raises TimeoutError when nothing comes for ANSWER_SECONDS."""
        self._socket.settimeout(scaled(ANSWER_SECONDS))

    def send(self, payload: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message; the receiver gets fds of its own for the same open files."""
        header = _HEADER.pack(len(payload), len(fds))
        if fds:
            socket.send_fds(self._socket, [header], fds)
            self._socket.sendall(payload)
        else:
            self._socket.sendall(header + payload)

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message; EOFError when the other side is gone."""
        header, fds, _, _ = socket.recv_fds(
            self._socket, _HEADER.size, _MAX_FDS, socket.MSG_CMSG_CLOEXEC
        )
        if len(header) < _HEADER.size:
            raise EOFError
        size, announced = _HEADER.unpack(header)
        if len(fds) != announced:
            raise OSError(f"{announced} file descriptors sent, {len(fds)} arrived")
        return self._read(size), fds

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def channel_pair() -> tuple[int, int]:
    """Two connected sockets, as fds that exec closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


def close_all_but(keep: Sequence[int]) -> None:
    """Close every fd above standard error that is not in `keep`."""
    start = 3
    for fd in sorted(fd for fd in keep if fd >= start):
        if fd > start:
            close_range(start, fd - 1)
        start = fd + 1
    close_range(start, 2**32 - 1)
