# SPDX-License-Identifier: GPL-2.0-only
"""The kernel packages of the mirror that the machine's apt is configured for, in one small index.

apt needs seconds to answer from 60 MB of lists; the index is what a run reads.
"""

import json
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vm.apt import Apt, MachineSources, SourceText, machine_sources
from vm.cache import atomic_path, locked
from vm.errors import ConfigError

logger = logging.getLogger(__name__)

# The releases that package kernels we can test; a mirror need not have all of them.
_RELEASES = ("bookworm", "trixie", "forky", "duke")
# Flavours other than cloud need modules for the guest's devices.
_KERNEL_PACKAGE = re.compile(
    r"linux-(?:binary|image)-(?:unsigned-)?\d\S*-cloud-amd64(?:-unsigned)?"
)


@dataclass(frozen=True)
class Listing:
    """What the mirror offered when it was last asked.

    `suites` maps each suite to all its names (`sid`: `sid`, `unstable`), `packages` holds a triple
    of package, version and suite for each kernel, `asked` the suites that were looked for.
    """

    suites: dict[str, list[str]]
    packages: list[tuple[str, str, str]]
    asked: list[str]

    def named(self, name: str) -> str | None:
        """Return the suite that goes by `name`, None if the mirror has none."""
        return next((suite for suite, names in self.suites.items() if name in names), None)

    def answers(self, suites: Iterable[str]) -> bool:
        """Tell whether these suites are in the listing, or known not to exist."""
        return all(self.named(suite) or suite in self.asked for suite in suites)


def listing(folder: Path, suites: Iterable[str], max_age: float) -> Listing:
    """Return a listing not older than `max_age` seconds, in which `suites` were looked for.

    apt's lists and the index live in `folder`. Where the mirror cannot be reached the older
    listing is returned; without one ConfigError tells what apt said.
    """
    wanted = tuple(suites)
    if (known := _fresh(folder, max_age)) and known.answers(wanted):
        return known
    with locked(folder):
        # Whoever held the lock before may just have fetched the same.
        if (known := _fresh(folder, max_age)) and known.answers(wanted):
            return known
        return _renewed(folder, _fresh(folder, float("inf")), wanted)


def _fresh(folder: Path, max_age: float) -> Listing | None:
    index = folder / "index.json"
    if not index.exists() or time.time() - index.stat().st_mtime > max_age:
        return None
    try:
        return Listing(**json.loads(index.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # of an older version, or damaged: it is made anew
        return None


def _renewed(folder: Path, old: Listing | None, wanted: tuple[str, ...]) -> Listing:
    logger.info("fetching the package lists of this machine's mirror (once a day)")
    apt = Apt(folder)
    sources = machine_sources()
    apt.write_sources(_entries(sources, {*wanted, *(old.suites if old else ())}))
    problem = apt.update()
    logger.debug("apt-get update: %s", problem or "all well")
    suites = {suite: sorted(names) for suite, names in apt.suites().items()}
    if not suites and not old:
        raise ConfigError(f"cannot read the package lists of this machine's mirror: {problem}")
    if not suites and old:
        logger.warning("the mirror does not answer, using an older list: %s", problem)
        return old
    new = Listing(suites, _kernel_packages(apt), list(wanted))
    with atomic_path(folder / "index.json") as temporary:
        temporary.write_text(json.dumps(asdict(new)), encoding="utf-8")
    return new


def _entries(sources: MachineSources, more: Iterable[str]) -> list[SourceText]:
    releases = dict.fromkeys([sources.codename, *_RELEASES])
    suites = [name for release in releases for name in (release, f"{release}-backports")]
    suites += ["sid", "experimental", *sorted(more)]
    security = [f"{release}-security" for release in releases]
    security += [suite for suite in suites if suite.endswith("-security")]
    main = [suite for suite in suites if not suite.endswith("-security")]
    entries = [sources.archive.with_suites(main)]
    if sources.security:
        entries.append(sources.security.with_suites(security))
    return entries


def _kernel_packages(apt: Apt) -> list[tuple[str, str, str]]:
    names = [
        name
        for prefix in ("linux-binary-", "linux-image-")
        for name in apt.query("pkgnames", prefix).split()
        if _KERNEL_PACKAGE.fullmatch(name)
    ]
    found = []
    for line in apt.query("madison", *names).splitlines() if names else ():
        # "package | version | address suite/component architecture Packages"
        package, version, place = (part.strip() for part in line.split(" | "))
        found.append((package, version, place.split()[1].rpartition("/")[0]))
    return found
