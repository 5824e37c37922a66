# SPDX-License-Identifier: GPL-2.0-only
"""A prompt in a guest, for looking around in the kernel under test."""

import sys

from harness.collect import collect
from harness.payload import payload
from harness.run import Settings
from vm import image, kernels, machine, qemu
from vm.accel import Acceleration
from vm.machine import MachineSpec


def shell(spec: str, settings: Settings) -> int:
    """Boot a kernel and connect its console to this terminal until the guest ends.

    Returns QEMU's exit status. Raises ConfigError and BootError like a run does.
    """
    kernel = kernels.resolve(spec)
    program = qemu.find()
    accel = Acceleration(settings.accel, str(program)).current().accel
    guest = MachineSpec(
        kernel=kernel.image,
        image=image.build(payload(collect())).path,
        qemu=program.path,
        accel=accel,
        cpus=qemu.usable_cpus(program, accel, settings.cpus),
        memory=settings.memory,
        append=("nsconform.shell", "loglevel=4", *settings.append),
    )
    print(f"Booting {kernel.release} ({accel}); Ctrl-A X ends the guest.", file=sys.stderr)
    return machine.converse(guest)
