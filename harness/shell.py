# SPDX-License-Identifier: GPL-2.0-only
"""A prompt in a guest, for looking around in the kernel under test."""

import sys

from harness.collect import collect
from harness.payload import with_suites
from harness.run import Settings
from vm import image, kernels, machine, qemu
from vm.accel import Accel, Acceleration
from vm.command import MachineSpec
from vm.errors import BootError
from vm.uncompressed import boot_image


def shell(spec: str, settings: Settings) -> int:
    """Boot a kernel and connect its console to this terminal until the guest ends.

    KVM is used where it was demanded, or a run has found that it works. Raises ConfigError and
    BootError like a run does.
    """
    kernel = kernels.resolve(spec)
    program = qemu.find()
    choice = Acceleration(settings.accel, str(program)).current()
    untried = choice.provisional and settings.accel == "auto"
    accel = Accel.TCG if untried else choice.accel
    guest = MachineSpec(
        kernel=boot_image(kernel, accel),
        image=image.build(with_suites(collect())).path,
        qemu=program.path,
        accel=accel,
        cpus=qemu.usable_cpus(program, accel, settings.cpus),
        memory=settings.memory,
        append=("nsconform.shell", "loglevel=4", *settings.append),
    )
    print(f"Booting {kernel.release} ({accel}); Ctrl-A X ends the guest.", file=sys.stderr)
    if said := machine.converse(guest):
        raise BootError(said[0])
    return 0
