# SPDX-License-Identifier: GPL-2.0-only
"""apt-get and apt-cache as far as vm/apt.py uses them, on a mirror that is a JSON file.

Usage: fake_apt.py WORLD PROGRAM ARGUMENT...; WORLD holds mirror.json, calls.log and pool/.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

WORLD = Path(sys.argv[1])
MIRROR = json.loads((WORLD / "mirror.json").read_text())


def main(argv: list[str]) -> int:
    with (WORLD / "calls.log").open("a") as log:
        log.write(" ".join(sys.argv[2:]) + "\n")
    settings = dict(word.split("=", 1) for word in argv if re.match(r"\w+::", word))
    lists = Path(settings.get("Dir::State::lists", WORLD))
    sources = Path(settings.get("Dir::Etc::sourceparts", WORLD))
    command = next(word for word in argv if word in COMMANDS)
    return COMMANDS[command](argv[argv.index(command) + 1 :], lists, sources)


def indextargets(argv: list[str], lists: Path, _: Path) -> int:
    if any("SOURCESENTRY" in word for word in argv):
        for target in MIRROR["targets"]:
            print("\t".join(target))
        return 0
    for suite, alias in MIRROR["suites"].items():
        print(f"{lists / suite}\t{suite}\t{alias}\t{suite}")
    return 0


def update(_: list[str], lists: Path, sources: Path) -> int:
    if not MIRROR["online"]:
        print("E: Could not resolve the mirror", file=sys.stderr)
        return 100
    asked = set(" ".join(file.read_text() for file in sources.iterdir()).split())
    for suite in asked & set(MIRROR["suites"]):
        (lists / suite).write_text("")
    missing = len(asked - set(MIRROR["suites"]))
    if missing:
        print("E: A suite does not have a Release file.", file=sys.stderr)
    return 100 if missing else 0


def pkgnames(argv: list[str], *_: Path) -> int:
    print("\n".join(name for name, _, _ in MIRROR["packages"] if name.startswith(argv[-1])))
    return 0


def madison(argv: list[str], lists: Path, _: Path) -> int:
    for name, version, suite in MIRROR["packages"]:
        if name in argv and (lists / suite).exists():
            print(f"{name} | {version} | http://mirror.invalid/debian {suite}/main amd64 Packages")
    return 0


def policy(_: list[str], *__: Path) -> int:
    print(f"qemu-system-x86:\n  Installed: (none)\n  Candidate: {MIRROR['qemu']}")
    return 0


def download(_: list[str], *__: Path) -> int:
    package = WORLD / "pool" / (sys.argv[-1].replace("=", "_") + ".deb")
    if not MIRROR["online"] or not package.exists():
        print(f"E: Failed to fetch {sys.argv[-1]}", file=sys.stderr)
        return 100
    shutil.copy(package, Path.cwd())
    return 0


def install(_: list[str], *__: Path) -> int:
    print(MIRROR["rehearsal"])
    return int(MIRROR["install_status"]) if "--simulate" not in sys.argv else 0


COMMANDS: dict[str, Callable[[list[str], Path, Path], int]] = {
    "indextargets": indextargets,
    "update": update,
    "pkgnames": pkgnames,
    "madison": madison,
    "policy": policy,
    "download": download,
    "install": install,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[3:]))
