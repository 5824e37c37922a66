# SPDX-License-Identifier: GPL-2.0-only
"""The snapshot of one kind of guest: where a run takes it from, and when it makes or drops it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from harness.boot import Boot
from harness.decode import decode
from harness.events import Hello
from harness.saving import saving
from harness.sleeper import Sleeper
from vm import snapshots
from vm.errors import ConfigError, SnapshotError


class Snapshot:
    """The snapshot with a key, whether it is there or not; `note` tells the user what went wrong.

    Whatever does, the run goes on with a guest that boots. `failed`: it could not be made.
    """

    def __init__(self, key: str, note: Callable[[str], None]) -> None:
        self._key = key
        self._note = note
        self.failed = False

    def thaw(self, stack: ExitStack) -> Sleeper | None:
        """Return the guest to go on with, until `stack` ends; None if there is none fit for it."""
        try:
            thawed = stack.enter_context(snapshots.thawed(snapshots.path(self._key)))
            return Sleeper(thawed.memory, thawed.state, decode(Hello, thawed.about, "hello"))
        except FileNotFoundError:
            return None
        except (SnapshotError, ConfigError) as error:
            self.drop(str(error))
            return None

    @contextmanager
    def kept(self, guest: Boot) -> Iterator[None]:
        """Save a guest that has said hello; it may be given work in the block."""
        assert guest.hello is not None
        with saving(guest.machine, self._key, asdict(guest.hello), self._fail):
            yield

    def _fail(self, why: str) -> None:
        self.failed = True
        self._note(why)

    def drop(self, why: str) -> None:
        """Remove the snapshot, as it is of no use."""
        try:
            snapshots.path(self._key).unlink(missing_ok=True)
        except OSError as error:  # a cache that somebody else owns
            why = f"{why}; but {error.filename} cannot be removed: {error.strerror}"
        self._note(f"snapshot dropped: {why}")
