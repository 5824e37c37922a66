# SPDX-License-Identifier: GPL-2.0-only
"""apt beside the system: lists and sources of our own, derived from those that the machine has.

No mirror is named here. The entry that the machine's own release comes from is copied with its
address, components and key, and only its suites are replaced; apt then checks signatures as
always, and nothing below /etc/apt or /var/lib/apt changes.
"""

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm.cache import atomic_path
from vm.errors import ConfigError

_OS_RELEASE = Path("/etc/os-release")
# The names under which a machine follows a moving release: its codename stands in no source then.
_MOVING = ("stable", "testing", "unstable", "sid")
_UPDATE_SECONDS = 600
_QUERY_SECONDS = 120
_DOWNLOAD_SECONDS = 1800


@dataclass(frozen=True)
class Source:
    """One entry of the machine's apt sources: a deb822 stanza or a one-line source.

    `place` is file:number as apt writes it, the number of the stanza or of the line; `suites` are
    the suites that the entry names.
    """

    place: str
    suites: tuple[str, ...]

    def with_suites(self, suites: Iterable[str]) -> "SourceText":
        """Return the entry with these suites in place of its own."""
        file, number = self.place.rsplit(":", 1)
        try:
            text = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read apt's source {file} ({error.strerror})") from error
        names = list(dict.fromkeys(suites))
        if file.endswith(".sources"):
            return SourceText(".sources", _stanza_with(text, int(number), names))
        return SourceText(".list", _line_with(text.splitlines()[int(number) - 1], names))


@dataclass(frozen=True)
class SourceText:
    """An apt source, and the file name suffix by which apt tells deb822 from one-line sources."""

    suffix: str
    text: str


def _stanza_with(text: str, number: int, suites: Sequence[str]) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    stanzas = [part for part in re.split(r"\n\s*\n", "\n".join(lines)) if part.strip()]
    stanza = stanzas[number - 1].strip("\n")
    for field, value in (("Types", "deb"), ("Suites", " ".join(suites))):
        whole_field = rf"(?im)^{field}:.*(?:\n[ \t].*)*"
        stanza = re.sub(whole_field, f"{field}: {value}", stanza)
    return stanza + "\n"


def _line_with(line: str, suites: Sequence[str]) -> str:
    address = re.match(r"\s*deb\s+((?:\[[^\]]*\]\s+)?\S+)\s+\S+\s+(.*)", line)
    if not address:
        raise ConfigError(f"cannot understand apt's source line: {line.strip()}")
    return "".join(f"deb {address[1]} {suite} {address[2]}\n" for suite in suites)


@dataclass(frozen=True)
class MachineSources:
    """Where the machine's release comes from: the archive and, where it stands apart, its security.

    `codename` is that of the release (`bookworm`).
    """

    codename: str
    archive: Source
    security: Source | None


@dataclass(frozen=True)
class _Target:
    place: str
    release: str
    codename: str
    origin: str
    component: str


def machine_sources() -> MachineSources:
    """Return the sources of the machine's own release.

    Raises ConfigError where there is no apt, or no source of the running release.
    """
    targets = [target for target in _targets() if target.component == "main"]
    codename, distribution = _os_release("VERSION_CODENAME"), _os_release("ID")
    updates = {target.place for target in targets if target.release.endswith("-updates")}
    own = [target for target in targets if codename in (target.release, target.codename)]
    own = own or [target for target in targets if target.release in _MOVING]
    if not own:
        raise ConfigError(
            f"apt on this machine has no source of its own release {codename!r}; "
            "add one below /etc/apt/sources.list.d"
        )
    # Other people's repositories are often called after the release that they are made for.
    archive = max(own, key=lambda one: (one.origin.lower() == distribution, one.place in updates))
    security = [
        target.place
        for target in targets
        if target.release == f"{codename}-security" and target.place != archive.place
    ]
    suites = _suites_by_place(targets)
    apart = Source(security[0], suites[security[0]]) if security else None
    return MachineSources(codename, Source(archive.place, suites[archive.place]), apart)


def _suites_by_place(targets: Iterable[_Target]) -> dict[str, tuple[str, ...]]:
    suites: dict[str, tuple[str, ...]] = {}
    for target in targets:
        suites[target.place] = (*suites.get(target.place, ()), target.release)
    return suites


def _os_release(field: str) -> str:
    text = _OS_RELEASE.read_text(encoding="utf-8") if _OS_RELEASE.exists() else ""
    found = re.search(rf'(?m)^{field}="?([\w.-]+)', text)
    return found[1] if found else ""


def _targets() -> list[_Target]:
    # What apt cannot know without lists stays in its answer as "$(ORIGIN)".
    fields = ("SOURCESENTRY", "RELEASE", "CODENAME", "ORIGIN", "COMPONENT")
    form = "\t".join(f"$({field})" for field in fields)
    answer = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    return [_Target(*line.split("\t")) for line in answer.splitlines()]


def run(argv: Sequence[str], *, folder: Path | None = None, seconds: float = _QUERY_SECONDS) -> str:
    """Run an apt command in `folder` and return what it prints.

    Raises ConfigError with apt's first error line when it fails or takes longer than `seconds`.
    """
    try:
        done = subprocess.run(
            ["env", "LC_ALL=C", *argv],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{argv[0]} did not finish within {seconds:.0f} s") from error
    if done.returncode == 127:
        raise ConfigError(f"no {argv[0]} here: kernels from a mirror need a Debian machine")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise ConfigError(f"{argv[0]} failed: {(said or [f'status {done.returncode}'])[0]}")
    return done.stdout


@dataclass(frozen=True)
class Apt:
    """apt that sees only the sources below `folder`, with its lists there as well."""

    folder: Path

    def options(self, *, cached: bool = True) -> list[str]:
        """Return the options that confine apt-get and apt-cache to `folder`.

        With `cached` false apt keeps its downloads where the system does, for installing as
        another user than the owner of `folder`.
        """
        settings = {
            "Dir::State::lists": self._made("lists/partial").parent,
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._made("sources"),
            # A quarter of the room, on the disk and on the wire.
            "Acquire::GzipIndexes": "true",
            "Acquire::Languages": "none",
            # Opening 60 MB of lists takes seconds without it, and images of containers turn it off.
            "Dir::Cache::pkgcache": "pkgcache.bin" if cached else "",
            "Dir::Cache::srcpkgcache": "",
        }
        if cached:
            settings["Dir::Cache"] = self._made("cache/archives/partial").parents[1]
        return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_sources(self, entries: Iterable[SourceText]) -> None:
        """Replace the sources by these."""
        folder = self._made("sources")
        wanted = {f"{number}{entry.suffix}": entry.text for number, entry in enumerate(entries)}
        for name, text in wanted.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for stale in folder.iterdir():
            if stale.name not in wanted:
                stale.unlink()

    def update(self) -> str:
        """Fetch the lists of every suite that the mirror has; return what went wrong, or "".

        A suite that the mirror lacks fails alone: apt takes the others, and says so at the end.
        """
        # By default apt calls an update well done when no server could be reached.
        strict = ("-o", "APT::Update::Error-Mode=any")
        try:
            self.get("update", "-q", *strict, seconds=_UPDATE_SECONDS)
        except ConfigError as error:
            return str(error)
        return ""

    def suites(self) -> dict[str, frozenset[str]]:
        """Return the suites whose lists are here, each with all its names (`sid`, `unstable`)."""
        form = "$(FILENAME)\t$(RELEASE)\t$(SUITE)\t$(CODENAME)"
        names: dict[str, frozenset[str]] = {}
        for line in self.get("indextargets", "--format", form, "Created-By: Packages").splitlines():
            file, release, *others = line.split("\t")
            if Path(file).exists():
                names[release] = frozenset({release, *others})
        return names

    def get(self, command: str, *argv: str, seconds: float = _QUERY_SECONDS) -> str:
        """Run `apt-get` and return what it prints; errors as in `run`."""
        return run(["apt-get", *self.options(), command, *argv], seconds=seconds)

    def query(self, command: str, *argv: str) -> str:
        """Run `apt-cache` and return what it prints; errors as in `run`."""
        return run(["apt-cache", *self.options(), command, *argv])

    def download(self, package: str, version: str, folder: Path) -> Path:
        """Download one package into `folder`, its checksum checked by apt; return the file."""
        argv = ["apt-get", *self.options(), "-q", "download", f"{package}={version}"]
        run(argv, folder=folder, seconds=_DOWNLOAD_SECONDS)
        files = list(folder.glob("*.deb"))
        if len(files) != 1:
            raise ConfigError(f"apt-get did not download {package} {version}")
        return files[0]
