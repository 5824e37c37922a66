# SPDX-License-Identifier: GPL-2.0-only
"""A host whose KVM works, for want of a real one: a guest whose CPU QEMU emulates with SVM.

AMD's virtualization is part of `-cpu max` under TCG. What runs on the KVM of such a guest is a
guest of a guest, ten or more times as slow as one on usual hardware.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import nested_image
from tests.nested_init import READY, RESULTS
from vm import kernels, machine, qemu
from vm.accel import Accel
from vm.machine import Machine, MachineSpec

logger = logging.getLogger(__name__)

_, _SCRIPTS = nested_image.places()
_ENVIRONMENT = {
    "PATH": f"/{_SCRIPTS}:/usr/bin:/bin",
    "HOME": "/nsconform",
    "TERM": "dumb",
    "NSCONFORM_CACHE": f"/{nested_image.CACHE}",
    # Only a compiler's tools would find it.
    "LIBARCHIVE": str(nested_image.library()),
}
_START_SECONDS = 180
_GRACE_SECONDS = 60


@dataclass(frozen=True)
class Done:
    """What a command in the guest came to: see `tests/nested_init.py`."""

    status: int | None
    seconds: float
    output: str
    files: dict[str, str]
    memory: list[Any] | None
    processes: list[str]

    @property
    def kernel(self) -> dict[str, Any]:
        """What run.json says about the only kernel of the run."""
        (text,) = (text for name, text in self.files.items() if name.endswith("/run.json"))
        (kernel,) = json.loads(text)["kernels"]
        return dict(kernel)


class NestedHost:
    """The guest while it runs; it runs one command after the other."""

    def __init__(self, guest: Machine) -> None:
        """Wait until process 1 of the guest listens."""
        self._guest = guest
        self._received = b""
        assert self._line(_START_SECONDS) == READY.strip()

    def run(self, *argv: str, seconds: float) -> Done:
        """Run a command there; its `status` is None if it had to be killed after `seconds`."""
        request = {"argv": argv, "environment": _ENVIRONMENT, "seconds": seconds}
        self._guest.channel.sendall(json.dumps(request).encode() + b"\n")
        return Done(**json.loads(self._line(seconds + _GRACE_SECONDS)))

    def _line(self, seconds: float) -> bytes:
        self._guest.channel.settimeout(seconds)
        while b"\n" not in self._received:
            chunk = self._guest.channel.recv(1 << 16)
            if not chunk:
                tail = "\n".join(self._guest.console.tail(30))
                pytest.fail(f"the guest has gone; the end of its console:\n{tail}")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line


@contextmanager
def nested_host(files: Mapping[str, Path]) -> Iterator[NestedHost]:
    """Boot a guest with a working KVM and nsconform, with `files` (guest path → file) in it."""
    kernel = kernels.newest_with_listns()
    with tempfile.TemporaryDirectory(prefix="nsconform-") as scratch:
        spec = MachineSpec(
            kernel=kernel.image,
            image=nested_image.build(kernel, files, Path(scratch)).path,
            qemu=qemu.find().path,
            accel=Accel.TCG,
            memory="4G",
        )
        with machine.running(spec, Path(scratch, "console.log")) as guest:
            yield NestedHost(guest)
