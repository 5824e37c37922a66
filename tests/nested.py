# SPDX-License-Identifier: GPL-2.0-only
"""A host whose KVM works, for want of a real one: a guest whose CPU QEMU emulates with SVM.

AMD's virtualization is part of `-cpu max` under TCG. What runs on the KVM of such a guest is a
guest of a guest, ten or more times as slow as one on usual hardware.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests import nested_image
from tests.nested_init import READY, RESULTS
from vm import machine, qemu
from vm.accel import Accel
from vm.command import MachineSpec
from vm.kernels import Kernel
from vm.machine import Machine

_, _SCRIPTS = nested_image.places()
_ENVIRONMENT = {
    "PATH": f"/{_SCRIPTS}:/usr/bin:/bin",
    "HOME": "/nsconform",
    "TERM": "dumb",
    "NSCONFORM_CACHE": f"/{nested_image.CACHE}",
    # Only a compiler's tools would find it.
    "LIBARCHIVE": str(nested_image.library()),
}
# QEMU's emulation of VMEXIT changes the pending interrupts of a CPU without a lock (do_vmexit() in
# svm_helper.c, seen in 10.0) and so loses some of them. A timer that is armed for one shot is then
# never armed again, and the guest stands still; a periodic one mends that 4 ms later.
_PERIODIC_TICK = ("nohz=off", "highres=off")
_START_SECONDS = 180
_GRACE_SECONDS = 60
_TAIL = 200


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

    def nsconform(self, *arguments: str, seconds: float, forget: bool = False) -> Done:
        """Run `nsconform run` there; its `status` is None if it had to be killed after `seconds`.

        `forget` has it find out anew whether KVM works.
        """
        request = {
            "argv": ["nsconform", "run", *arguments, "--results", str(RESULTS)],
            "environment": _ENVIRONMENT,
            "seconds": seconds,
            "forget": forget,
        }
        self._guest.channel.sendall(json.dumps(request).encode() + b"\n")
        return Done(**json.loads(self._line(seconds + _GRACE_SECONDS)))

    def _line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            self._guest.channel.settimeout(max(deadline - time.monotonic(), 0.1))
            try:
                chunk = self._guest.channel.recv(1 << 16)
            except TimeoutError:
                self._guest.console.sysrq("lw")
                self._fail(f"no answer from the host in {seconds:.0f} s")
            if not chunk:
                self._fail("the host has gone")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _fail(self, why: str) -> NoReturn:
        tail = "\n".join(self._guest.console.tail(_TAIL))
        pytest.fail(f"{why}; the end of its console:\n{tail}")


@contextmanager
def nested_host(kernel: Kernel, files: Mapping[str, Path]) -> Iterator[NestedHost]:
    """Boot `kernel`, a packaged one, as a host with a working KVM and nsconform installed.

    `files` (guest path → file) are there too.
    """
    with tempfile.TemporaryDirectory(prefix="nsconform-") as scratch:
        spec = MachineSpec(
            kernel=kernel.image,
            image=nested_image.build(kernel, files, Path(scratch)).path,
            qemu=qemu.find().path,
            accel=Accel.TCG,
            memory="4G",
            append=_PERIODIC_TICK,
        )
        with machine.running(spec, Path(scratch, "console.log")) as guest:
            yield NestedHost(guest)
