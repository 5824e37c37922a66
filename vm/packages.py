# SPDX-License-Identifier: GPL-2.0-only
"""Packaged kernels: what the machine's mirror offers, and what was fetched from it before."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vm.apt import Apt
from vm.cache import atomic_path, cache_dir, hold, scratch_folder
from vm.errors import ConfigError
from vm.mirror import Listing, listing

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 24 * 3600
_ASKED_AGAIN_SECONDS = 600  # a mistyped version must not fetch the lists at every try
_CACHE_SUITE = "cache"

# Since 6.19 the image is in linux-binary-*, and linux-image-* only depends on it. An unsigned
# package holds the same kernel.
_PREFERENCE = ("linux-binary-", "linux-binary-unsigned-", "linux-image-")


@dataclass(frozen=True)
class Offer:
    """A packaged kernel that can be had.

    `version` is the package's (`6.12.95-1~bpo12+1`); `suite` is where the mirror has it, or
    `cache` when the mirror has it no more; `cached` tells that the package is on this machine.
    """

    version: str
    suite: str
    package: str
    cached: bool

    @property
    def upstream(self) -> str:
        """Return the kernel's own version: `6.12.95`, or `7.3~rc7` for a release candidate."""
        return self.version.rpartition("-")[0]


_Key = list[tuple[list[int], int]]


def version_key(version: str) -> tuple[_Key, _Key]:
    """Return a key that sorts package versions as dpkg does (deb-version(7)), epochs aside."""
    upstream, _, revision = version.rpartition("-") if "-" in version else (version, "", "")
    return _part_key(upstream), _part_key(revision)


def _part_key(part: str) -> _Key:
    # "~" sorts before the end of a part, the end before letters, letters before all else.
    pairs = re.findall(r"(\D*)(\d*)", part)
    return [([*map(_character_rank, text), 0], int(number or 0)) for text, number in pairs]


def _character_rank(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def offered(
    suites: Iterable[str] = (), *, cache: Path | None = None, again: bool = False
) -> tuple[Offer, ...]:
    """Return the kernels in these suites, newest first; without suites all, with the cached ones.

    The mirror's lists are fetched when they are older than a day, or with `again` than ten
    minutes. Raises ConfigError for a suite that the mirror lacks, and where there is neither a
    mirror nor a cached kernel.
    """
    names = tuple(suites)
    kept = cached(cache=cache)
    max_age = _ASKED_AGAIN_SECONDS if again else _FRESH_SECONDS
    try:
        known = listing(_folder(cache, "apt"), names, max_age)
    except ConfigError as error:
        if names or not kept:
            raise
        logger.warning("only kernels fetched before can be used: %s", error)
        return kept
    if not names:
        return _merged(known, set(known.suites), kept)
    return _merged(known, {_suite(known, name) for name in names}, kept, with_gone=False)


def _suite(known: Listing, name: str) -> str:
    if suite := known.named(name):
        return suite
    raise ConfigError(
        f"this machine's mirror has no suite {name!r}; it has {', '.join(sorted(known.suites))}"
    )


def _merged(
    known: Listing, suites: set[str], kept: tuple[Offer, ...], *, with_gone: bool = True
) -> tuple[Offer, ...]:
    here = {(offer.package, offer.version) for offer in kept}
    listed = {(package, version) for package, version, _ in known.packages}
    best: dict[tuple[str, str], Offer] = {}
    for package, version, suite in sorted(known.packages, key=_preference, reverse=True):
        if suite in suites:
            best[suite, version] = Offer(version, suite, package, (package, version) in here)
    gone = [one for one in kept if with_gone and (one.package, one.version) not in listed]
    return _newest_first([*best.values(), *gone])


def _preference(row: tuple[str, str, str]) -> tuple[int, bool]:
    stem = re.match(r"\D*", row[0])
    return _PREFERENCE.index(stem[0] if stem else ""), row[0].endswith("-unsigned")


def _newest_first(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    return tuple(sorted(offers, key=lambda offer: version_key(offer.version), reverse=True))


def cached(*, cache: Path | None = None) -> tuple[Offer, ...]:
    """Return the kernels whose packages are on this machine, newest first."""
    names = (file.stem.split("_") for file in _folder(cache, "packages").glob("*.deb"))
    return _newest_first(
        Offer(version, _CACHE_SUITE, package, cached=True)
        for package, version in names
        if package.startswith(_PREFERENCE)
    )


def fetch(package: str, version: str, *, cache: Path | None = None) -> Path:
    """Return the file of a package, of any package, downloaded once and then kept in the cache.

    Raises ConfigError when the mirror does not have it (any more) or cannot be reached.
    """
    folder = _folder(cache, "packages")
    final = folder / f"{package}_{version}.deb"
    if hold(final):
        return final
    # One at a time: who had to wait finds the package in the cache.
    with scratch_folder(folder) as scratch:
        if not final.exists():
            apt = _folder(cache, "apt")
            listing(apt, (), max_age=float("inf"))  # apt finds nothing without lists
            logger.info("fetching %s %s", package, version)
            downloaded = Apt(apt).download(package, version, scratch)
            with atomic_path(final) as temporary:
                downloaded.rename(temporary)
        hold(final)  # nobody clears the folder while it is locked
    return final


def _folder(cache: Path | None, name: str) -> Path:
    if cache is None:
        return cache_dir(name)
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
