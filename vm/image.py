# SPDX-License-Identifier: GPL-2.0-only
"""The guest image: an initramfs with an interpreter, pytest and what the caller adds.

It is two archives one after the other: the interpreter, which changes only with this machine's
Python, and the payload, which changes with every edited test and costs milliseconds to pack.
"""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm import cpio, facade, generated, interpreter
from vm.cache import cache_dir, made_once
from vm.cpio import Entry


@dataclass(frozen=True)
class GuestImage:
    """An initramfs file in the cache; `key` names its content."""

    path: Path
    key: str


def build(payload: Mapping[str, Entry], packages: Sequence[str] = ()) -> GuestImage:
    """Return the image of interpreter and `payload` (guest path → entry), built at most once.

    The payload holds `init`, the program that the kernel starts as process 1. `packages` are those
    of pytest and of the payload whose dataclasses are compiled ahead.
    """
    base = _base_layer()
    recipe = [base.name, inspect.getsource(generated), *packages]
    key = _digest(*recipe, *(f"{path}{payload[path]}" for path in sorted(payload)))

    def write(unfinished: Path) -> None:
        _write(unfinished, base, {**payload, **generated.guest_files(packages)})

    return GuestImage(made_once(cache_dir("images") / f"guest-{key}.cpio", write), key)


def _write(file: Path, base: Path, payload: Mapping[str, Entry]) -> None:
    cpio.write(file, payload)
    # The kernel unpacks archives in the order in which they lie in the file.
    file.write_bytes(base.read_bytes() + file.read_bytes())


def _base_layer() -> Path:
    recipe = "".join(map(inspect.getsource, (cpio, facade, interpreter)))
    base = cache_dir("images") / f"base-{_digest(recipe, interpreter.fingerprint())}.cpio"
    return made_once(base, lambda unfinished: cpio.write(unfinished, interpreter.guest_files()))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
