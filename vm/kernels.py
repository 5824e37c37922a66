# SPDX-License-Identifier: GPL-2.0-only
"""From what the user types to name a kernel to an image that QEMU can boot."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm import archives, bzimage, packages
from vm.cache import atomic_path, cache_dir, hold, scratch_folder
from vm.errors import ConfigError
from vm.packages import Offer, version_key

logger = logging.getLogger(__name__)

_MIRROR_PREFIX = "debian:"
_HOST_ROOT = Path("/")
_TREE_IMAGE = Path("arch/x86/boot/bzImage")
# listns(2): commit 76b6f5dfb3fd ("nstree: add listns()"), first released in 6.19.
_LISTNS_SINCE = "6.19~"


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted.

    `spec` is what the user typed, `release` what `uname -r` says in it, `origin` where the image
    came from, `sha256` that of the image, `config` its build configuration where that is known.
    """

    spec: str
    image: Path
    release: str
    arch: str
    origin: str
    sha256: str
    config: Path | None

    def is_unchanged(self) -> bool:
        """Whether the image is still the one that was resolved: a tree may be built meanwhile."""
        try:
            return _sha256(self.image) == self.sha256
        except OSError:
            return False


def resolve(spec: str, *, cache: Path | None = None) -> Kernel:
    """Return the kernel that `spec` names.

    A spec is a bzImage file, a `.deb` file, a kernel source tree, `host` (the image of the running
    kernel), or a kernel that the machine's mirror packages: `debian:VERSION` (`debian:6.12` is the
    newest 6.12), `debian:SUITE`, `debian:newest`, `debian:newest-with-listns`,
    `debian:newest-without-listns`. `cache` is the cache folder, the user's own by default. Raises
    ConfigError for what is no kernel for x86_64, is not offered, or cannot be fetched.
    """
    try:
        return _resolve(spec, cache)
    except OSError as error:
        raise ConfigError(f"kernel {spec!r}: {error.strerror}: {error.filename}") from error


def _resolve(spec: str, cache: Path | None) -> Kernel:
    if spec == "host":
        return _from_image(spec, *_host_image())
    if spec.startswith(_MIRROR_PREFIX):
        return _from_mirror(spec, spec.removeprefix(_MIRROR_PREFIX), cache)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return _from_tree(spec, path)
    if not path.is_file():
        what = "not a regular file" if spec and path.exists() else "no such file"
        raise ConfigError(
            f"kernel {spec!r}: {what}; give a bzImage, a .deb, a kernel tree, `host`, "
            "`debian:VERSION` or `debian:SUITE`"
        )
    if path.suffix == ".deb":
        return _from_package(spec, path, f"package file {path.name}", cache)
    return _from_image(spec, path, f"file {path.absolute()}")


def newest_with_listns(*, cache: Path | None = None) -> Kernel:
    """Return the newest packaged kernel that has listns(2); errors as in `resolve`."""
    return resolve("debian:newest-with-listns", cache=cache)


def newest_without_listns(*, cache: Path | None = None) -> Kernel:
    """Return the newest packaged kernel that does not have listns(2); errors as in `resolve`."""
    return resolve("debian:newest-without-listns", cache=cache)


def _lacks_listns(version: str) -> bool:
    return version_key(version) < version_key(_LISTNS_SINCE)


_ROLES: dict[str, Callable[[str], bool]] = {
    "newest": lambda _: True,
    "newest-with-listns": lambda version: not _lacks_listns(version),
    "newest-without-listns": _lacks_listns,
}


def _host_image() -> tuple[Path, str]:
    release = os.uname().release
    places = [f"boot/vmlinuz-{release}"]
    places += [f"{library}/modules/{release}/vmlinuz" for library in ("usr/lib", "lib")]
    for place in places:
        if (image := _HOST_ROOT / place).is_file():
            return image, f"running kernel, {image}"
    raise ConfigError(
        f"host: no image of the running kernel: neither /{places[0]} exists nor /{places[1]}"
    )


def _from_tree(spec: str, tree: Path) -> Kernel:
    image = tree / _TREE_IMAGE
    if not image.is_file():
        raise ConfigError(
            f"{spec} is a directory without a kernel: {_TREE_IMAGE} is not there; build it first"
        )
    return _from_image(spec, image, f"tree {tree.absolute()}")


def _from_package(spec: str, package: Path, origin: str, cache: Path | None) -> Kernel:
    folder = cache / "kernels" if cache else cache_dir("kernels")
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder / _sha256(package)[:32]
    image = unpacked / "vmlinuz"
    while not (hold(unpacked) and image.exists()):
        _unpack(package, unpacked)
    return _from_image(spec, image, origin)


def _unpack(package: Path, unpacked: Path) -> None:
    with scratch_folder(unpacked.parent) as scratch:
        archives.unpack_kernel(package, scratch)
        unpacked.mkdir(exist_ok=True)
        # The image comes last: where it is, all is there.
        for file in sorted(scratch.iterdir()):
            with atomic_path(unpacked / file.name) as temporary:
                file.rename(temporary)


def _from_image(spec: str, image: Path, origin: str) -> Kernel:
    identity = bzimage.read(image)
    return Kernel(
        spec=spec,
        image=image.absolute(),
        release=identity.release,
        arch=identity.arch,
        origin=origin,
        sha256=_sha256(image),
        config=_config_of(image, identity.release),
    )


def _config_of(image: Path, release: str) -> Path | None:
    places = [image.parent / f"config-{release}", image.parent / "config"]
    if (real := image.resolve()).match(str(_TREE_IMAGE)):
        places.append(real.parents[3] / ".config")
    return next((place for place in places if place.is_file()), None)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_mirror(spec: str, wanted: str, cache: Path | None) -> Kernel:
    if not wanted:
        raise ConfigError(f"{spec!r} names no version and no suite; `debian:newest` is the newest")
    # What is named exactly and was fetched before needs no mirror, and no waiting for its lists.
    if exact := [one for one in packages.cached(cache=cache) if _is_exactly(one, wanted)]:
        return _fetched(spec, lambda _: exact, cache)
    return _fetched(spec, lambda again: _candidates(spec, wanted, cache, again), cache)


def _candidates(spec: str, wanted: str, cache: Path | None, again: bool) -> list[Offer]:
    if wanted not in _ROLES and not wanted[0].isdigit():
        return list(packages.offered([wanted], cache=cache, again=again))
    offers = packages.offered(cache=cache, again=again)
    if role := _ROLES.get(wanted):
        return [offer for offer in offers if role(offer.upstream)]
    found = [offer for offer in offers if _matches(offer, wanted)]
    if again and not found:
        raise ConfigError(
            f"{spec} is not offered by this machine's mirror; {_nearest(offers, wanted)}"
        )
    return found


def _is_exactly(offer: Offer, wanted: str) -> bool:
    return wanted in (offer.upstream, offer.version)


def _matches(offer: Offer, wanted: str) -> bool:
    if _is_exactly(offer, wanted):
        return True
    return offer.upstream.startswith((f"{wanted}.", f"{wanted}~"))


def _nearest(offers: Sequence[Offer], wanted: str) -> str:
    versions = list(dict.fromkeys(offer.upstream for offer in offers))
    older = [one for one in versions if version_key(one) < version_key(wanted)][:2]
    newer = [one for one in versions if version_key(one) > version_key(wanted)][-2:]
    nearest = ", ".join(_MIRROR_PREFIX + one for one in reversed(newer + older))
    return f"nearest: {nearest}" if nearest else "it offers none"


def _fetched(spec: str, candidates: Callable[[bool], list[Offer]], cache: Path | None) -> Kernel:
    offer, file = _newest_package(spec, candidates, cache)
    return _from_package(spec, file, f"package {offer.package} {offer.version}", cache)


def _newest_package(
    spec: str, candidates: Callable[[bool], list[Offer]], cache: Path | None
) -> tuple[Offer, Path]:
    """Return the newest of the candidates, or the newest that is here if it cannot be fetched.

    The argument of `candidates` asks for newer lists, when the first ones led nowhere: a mirror
    drops versions as new ones come.
    """
    failure = ConfigError(f"{spec}: this machine's mirror has no such kernel")
    here: list[Offer] = []
    for again in (False, True):
        offers = candidates(again)
        here = [offer for offer in offers if offer.cached]
        try:
            if offers:
                return offers[0], packages.fetch(offers[0].package, offers[0].version, cache=cache)
        except ConfigError as error:
            failure = error
    if not here:
        raise failure
    logger.warning("using %s, fetched before: %s", here[0].version, failure)
    return here[0], packages.fetch(here[0].package, here[0].version, cache=cache)
