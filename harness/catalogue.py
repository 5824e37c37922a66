# SPDX-License-Identifier: GPL-2.0-only
"""The catalogue of behaviours: what each promises, where that comes from, and what fixed it."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.collect import SUITES
from harness.decode import decode
from vm.errors import ConfigError


@dataclass(frozen=True)
class Fix:
    """The upstream change that made kernels keep a promise which they had broken.

    `commit` is its hash in mainline, empty if not known, `releases` are the first of each series
    that have it, `cve` may be empty.
    """

    title: str
    commit: str = ""
    releases: tuple[str, ...] = ()
    cve: str = ""


@dataclass(frozen=True)
class Behaviour:
    """One promise of the kernel.

    `source` tells where it stands (kernel file, commit or man page), `since` the first release
    that makes it, and `waived`, if not empty, why no test asserts it.
    """

    id: str
    sentence: str
    source: str
    since: str
    fix: Fix | None = None
    waived: str = ""


def load(path: Path = SUITES / "catalogue.toml") -> Mapping[str, Behaviour]:
    """Read the catalogue, keyed by behaviour id in the order of the file.

    Raises ConfigError if the file cannot be read or holds something else.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable catalogue: {error}") from error
    behaviours = data.get("behaviours")
    if not isinstance(behaviours, dict):
        raise ConfigError(f"{path}: no [behaviours.…] table in it; it is not a catalogue")
    return {name: _behaviour(name, entry, path) for name, entry in behaviours.items()}


def _behaviour(name: str, entry: object, path: Path) -> Behaviour:
    named = {**entry, "id": name} if isinstance(entry, dict) else entry
    return decode(Behaviour, named, f"{path}: behaviours.{name}")
