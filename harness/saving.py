# SPDX-License-Identifier: GPL-2.0-only
"""Saving a guest that is ready, beside the run that goes on in it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from vm import snapshots
from vm.errors import NsconformError
from vm.machine import Machine
from vm.pruning import keep_within_limit


class Saving:
    """A thread that saves one guest. `failure` says in the end why there is no snapshot."""

    def __init__(self, machine: Machine, key: str, about: Mapping[str, object]) -> None:
        self.failure = ""
        self._machine = machine
        self._key = key
        self._about = about
        self._taken = threading.Event()
        self._thread = threading.Thread(target=self._work, name="saving")
        self._thread.start()

    def wait_until_taken(self) -> None:
        """Wait until the guest goes on; what is left concerns only the file."""
        self._taken.wait()

    def wait(self) -> None:
        """Wait until the snapshot is there, or is known not to come."""
        self._thread.join()

    def _work(self) -> None:
        try:
            with snapshots.writer(self._key) as writer:
                if writer is not None:
                    writer.take(self._machine, self._about)
                    # Getting it to the disk concerns the guest no more.
                    self._taken.set()
            keep_within_limit()
        except (OSError, NsconformError) as error:
            self.failure = f"no snapshot is kept: {error}"
        finally:
            self._taken.set()


@contextmanager
def saving(
    machine: Machine, key: str, about: Mapping[str, object], failed: Callable[[str], None]
) -> Iterator[Saving]:
    """Begin to save a guest that is idle, and yield as soon as it may work again.

    The snapshot is there when the block is left, however it is left, or `failed` is told why not.
    """
    saving = Saving(machine, key, about)
    try:
        saving.wait_until_taken()
        yield saving
    finally:
        saving.wait()
        if saving.failure:
            failed(saving.failure)
