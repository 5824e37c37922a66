# SPDX-License-Identifier: GPL-2.0-only
"""Whether guests run on KVM or are emulated, and why.

That /dev/kvm opens says little: on some hosts every kernel dies in its decompressor or hangs.
Only a boot tells, so the first boot on a host is made with KVM and the answer is remembered.
"""

import json
import os
import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from vm.cache import atomic_path, cache_dir
from vm.errors import BootError, ConfigError

_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# Seconds that a guest has while KVM itself is in doubt, on a host of ordinary speed: until its
# kernel prints the first line, and until its agent is ready. Who demands a KVM that does not work
# is to know within 30 s.
FIRST_LINE_SECONDS = 10.0
READY_SECONDS = 20.0
_MAX_SLOWNESS = 6.0
_LOOPS = 200_000
_ORDINARY_LOOP_SECONDS = 0.02


class Accel(StrEnum):
    """How QEMU executes the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class Choice:
    """How to boot and why; `provisional` means that only this boot will tell whether it works."""

    accel: Accel
    reason: str
    provisional: bool = False


@dataclass(frozen=True)
class Trial:
    """How many seconds after its start a guest on a KVM in doubt must have printed the kernel's
    first line, and its agent must be ready."""

    first_line: float
    ready: float


_KVM_UNTRIED = Choice(Accel.KVM, "KVM works on this host", provisional=True)


class Acceleration:
    """How the guests of a run are executed. All its kernels share one; thread-safe."""

    def __init__(self, requested: str, qemu_version: str) -> None:
        """Decide for `requested` "auto", "kvm" or "tcg".

        Raises ConfigError for another word, BootError when KVM is demanded and cannot be opened.
        """
        self._demanded = requested == Accel.KVM
        self._host = f"{_BOOT_ID.read_text().strip()} qemu {qemu_version}"
        self._lock = threading.Lock()
        self._choice = self._first_choice(requested)
        self._worth_remembering = self._choice.provisional and not self._demanded

    def current(self) -> Choice:
        """Return how the next guest is to be executed."""
        with self._lock:
            return self._choice

    def confirm(self, accel: Accel) -> None:
        """Take note that a guest came up with `accel`, and remember it for the host."""
        with self._lock:
            if accel is not self._choice.accel:
                return
            self._choice = replace(self._choice, provisional=False)
            if self._worth_remembering:
                self._remember()
                self._worth_remembering = False

    def reject(self, accel: Accel, why: str) -> bool:
        """Take note that a guest did not come up with `accel`; False if there is no other way.

        Whether KVM or the kernel was at fault shows when the kernel is emulated, so nothing is
        remembered before `confirm`, and a kernel that does not come up either way says nothing
        about KVM: the next one tries it again.
        """
        with self._lock:
            if accel is Accel.TCG and self._worth_remembering:
                self._choice = _KVM_UNTRIED
            elif accel is Accel.KVM and self._choice.provisional and not self._demanded:
                self._choice = Choice(Accel.TCG, f"KVM opened but {why}")
            return self._choice.accel is not accel

    def _first_choice(self, requested: str) -> Choice:
        if requested not in ("auto", *Accel):
            raise ConfigError(f"--accel {requested} is unknown: use auto, kvm or tcg")
        if requested == Accel.TCG:
            return Choice(Accel.TCG, "asked for with --accel tcg")
        obstacle = _obstacle()
        if self._demanded:
            if obstacle:
                raise BootError(f"--accel kvm: {obstacle}; use --accel auto or tcg")
            return Choice(Accel.KVM, "asked for with --accel kvm", provisional=True)
        if obstacle:
            return Choice(Accel.TCG, obstacle)
        return self._remembered() or _KVM_UNTRIED

    def _remembered(self) -> Choice | None:
        try:
            fact = json.loads(_memory().read_text())
            if fact["host"] == self._host:
                return Choice(Accel(fact["accel"]), fact["reason"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # No memory, or one that another version wrote: the next boot finds out anew.
            return None
        return None

    def _remember(self) -> None:
        fact = {"host": self._host, "accel": self._choice.accel, "reason": self._choice.reason}
        with atomic_path(_memory()) as unfinished:
            unfinished.write_text(json.dumps(fact))


def trial() -> Trial:
    """Return the time within which a guest comes up on a working KVM.

    The host itself may be an emulated one, so its speed is measured first.
    """
    start = time.perf_counter()
    for _ in range(_LOOPS):
        pass
    measured = (time.perf_counter() - start) / _ORDINARY_LOOP_SECONDS
    slowness = min(max(measured, 1.0), _MAX_SLOWNESS)
    return Trial(FIRST_LINE_SECONDS * slowness, READY_SECONDS * slowness)


def _obstacle() -> str:
    try:
        os.close(os.open(_KVM, os.O_RDWR))
    except FileNotFoundError:
        return f"{_KVM} does not exist"
    except OSError as error:
        return f"{_KVM} cannot be opened: {error.strerror}"
    return ""


def _memory() -> Path:
    return cache_dir() / "accel.json"
