# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's monitor: commands and their answers in QMP, one JSON object a line (docs/interop/qmp-spec
in QEMU's sources)."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

from vm.errors import SnapshotError

_ANSWER_SECONDS = 30
_POLL_SECONDS = 0.01
_CANCEL_SECONDS = 5.0
# qapi/migration.json, MigrationStatus
_FINAL = ("completed", "failed", "cancelled")


def _check(status: object) -> None:
    if status != "completed":
        raise SnapshotError(f"QEMU does not get through the guest's state: {status}")


class Monitor:
    """Controls one QEMU. Every method raises SnapshotError where QEMU refuses or has gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines: Iterator[bytes] | None = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the guest's CPUs and clocks, and let them go on at the end of the block."""
        try:
            # If the answer alone is late, the guest has to go on all the same.
            self._do("stop")
            yield
        finally:
            self._do("cont")

    def write_state(self, path: str, seconds: float) -> None:
        """Write the state of a guest's CPUs and devices, without its memory, to the file `path`.

        `path` is a name as QEMU sees it.
        """
        self._leave_memory_out()
        self._do("migrate", uri=f"file:{path}")
        status = self._last_status(seconds)
        if status not in _FINAL:
            # Left alone, it would stop the guest again in the end.
            self._do("migrate_cancel")
            self._last_status(_CANCEL_SECONDS)
        _check(status)

    def read_state(self, path: str, seconds: float) -> None:
        """Let a guest go on that was started with `-incoming defer`, from what `write_state` wrote.

        QEMU ends where it cannot.
        """
        self._leave_memory_out()
        self._do("migrate-incoming", uri=f"file:{path}")
        _check(self._last_status(seconds))
        # It was paused when it was saved, and that is part of its state.
        self._do("cont")

    def _last_status(self, seconds: float) -> object:
        """Return how a migration has ended, or what it is at after `seconds`."""
        deadline = time.monotonic() + seconds
        while (status := self._do("query-migrate").get("status")) not in _FINAL:
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        return status

    def _leave_memory_out(self) -> None:
        # Memory that lies in shared files (docs/devel/migration/features.rst in QEMU's sources).
        capability = {"capability": "x-ignore-shared", "state": True}
        self._do("migrate-set-capabilities", capabilities=[capability])

    def _do(self, command: str, **arguments: object) -> dict[str, Any]:
        try:
            if self._lines is None:
                self._lines = self._greeted()
            return self._answer(command, arguments)
        except (OSError, ValueError, StopIteration) as error:
            raise SnapshotError(f"QEMU's monitor does not answer `{command}`: {error}") from None

    def _greeted(self) -> Iterator[bytes]:
        self._connection.settimeout(_ANSWER_SECONDS)
        self._lines = iter(self._connection.makefile("rb"))
        json.loads(next(self._lines))
        self._answer("qmp_capabilities", {})
        return self._lines

    def _answer(self, command: str, arguments: dict[str, object]) -> dict[str, Any]:
        assert self._lines is not None
        request = {"execute": command, "arguments": arguments}
        self._connection.sendall(json.dumps(request).encode())
        # Events come in between.
        answers = (json.loads(line) for line in self._lines)
        answer = next(one for one in answers if "return" in one or "error" in one)
        if "error" in answer:
            raise SnapshotError(f"QEMU refuses `{command}`: {answer['error'].get('desc', '')}")
        return dict(answer["return"])
