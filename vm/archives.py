# SPDX-License-Identifier: GPL-2.0-only
"""Kernels out of package files. No path in an archive is trusted: only the contents are taken."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vm.errors import ConfigError

# A packaged kernel has 14 MB, a debug build with everything in it 100 MB.
_IMAGE_BYTES = 256 << 20
_CONFIG_BYTES = 4 << 20
_DATA_BYTES = 2 << 30
_CONTENT_BYTES = 16 << 30  # what an archive may unpack to before it is taken for a bomb


@dataclass(frozen=True)
class _Wanted:
    paths: re.Pattern[str]
    limit: int


# Where Debian puts a kernel: /boot until 6.19, below /usr/lib/modules in linux-binary-* since 7.0.
_IMAGE = _Wanted(
    re.compile(r"(?:\./)?(?:boot/vmlinuz-[^/]+|(?:usr/)?lib/modules/[^/]+/vmlinuz)"), _IMAGE_BYTES
)
_CONFIG = _Wanted(
    re.compile(r"(?:\./)?(?:boot/config-[^/]+|(?:usr/)?lib/modules/[^/]+/config)"), _CONFIG_BYTES
)
_DATA = _Wanted(re.compile(r"(?:\./)?data\.tar(?:\.\w+)?"), _DATA_BYTES)


def unpack_kernel(package: Path, folder: Path) -> None:
    """Write the kernel of a `.deb` to `folder`/vmlinuz, and its configuration to config if there.

    Raises ConfigError for a file that is no package, or a package that holds no kernel.
    """
    data = folder / "data.tar"
    try:
        if not _extract(package, {_DATA: data}):
            raise ConfigError(f"{package} is not a Debian package (no data.tar in it)")
        found = _extract(data, {_IMAGE: folder / "vmlinuz", _CONFIG: folder / "config"})
    finally:
        data.unlink(missing_ok=True)
    if _IMAGE not in found:
        raise ConfigError(
            f"{package} holds no kernel image; "
            "the image of a split package is in linux-binary-* or linux-image-*"
        )


def _extract(archive: Path, wanted: dict[_Wanted, Path]) -> set[_Wanted]:
    found: set[_Wanted] = set()
    total = 0
    with _entries(archive) as entries:
        for entry in entries:
            total += entry.size or 0
            if total > _CONTENT_BYTES:
                raise ConfigError(f"{archive} unpacks to more than {_CONTENT_BYTES >> 30} GB")
            for member, target in wanted.items():
                if entry.isfile and member not in found and member.paths.fullmatch(entry.pathname):
                    _copy(entry, target, member.limit)
                    found.add(member)
            if len(found) == len(wanted):
                break
    return found


def _copy(entry: Any, target: Path, limit: int) -> None:
    written = 0
    with target.open("wb") as stream:
        for block in entry.get_blocks():
            written += len(block)
            if written > limit:
                raise ConfigError(
                    f"{entry.pathname} has more than {limit >> 20} MB: not a kernel's"
                )
            stream.write(block)


@contextmanager
def _entries(archive: Path) -> Iterator[Any]:
    library = libarchive()
    try:
        with library.file_reader(str(archive)) as entries:
            yield entries
    except library.ArchiveError as error:
        raise ConfigError(f"cannot read the package {archive}: {error}") from error


def libarchive() -> Any:
    """Return the binding. Raises ConfigError where the library is missing."""
    # The binding looks for the shared library when it is imported; most runs need neither.
    # It also says at INFO what an old one lacks for writing archives.
    logging.getLogger("libarchive").setLevel(logging.WARNING)
    try:
        import libarchive
    except (ImportError, OSError, TypeError, AttributeError) as error:
        raise ConfigError("libarchive is missing; `make setup` installs it") from error
    return libarchive
