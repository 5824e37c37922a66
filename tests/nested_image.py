# SPDX-License-Identifier: GPL-2.0-only
"""What is in the guest in which nsconform itself runs, on KVM: all that a host of it needs.

Nothing can be fetched or built there, so the cache of the inner nsconform comes filled.
"""

import lzma
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any

import libarchive
import pytest
from packaging.requirements import Requirement

from vm import image, packages, qemu
from vm.cpio import Entry
from vm.elf import shared_libraries
from vm.image import GuestImage
from vm.interpreter import compiled, executable
from vm.kernels import Kernel

CACHE = "nsconform/cache"
_SCRIPTS = ("nsconform", "virtme-run")
_PROJECT = Path(__file__).parents[1]
# JUnit reports are XML, and pytest's colours take html.
_PACKAGES = ("html", "xml")
# In the order in which they depend on each other.
_MODULES = ("irqbypass", "kvm", "kvm-amd")
# What a packaged QEMU loads for a machine without display and network.
_FIRMWARE = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin")
_PROGRAMS = ("setpriv", "file", qemu.PROGRAM)
# What `file` knows of files; virtme-run asks it for the kernel's version.
_MAGIC = Path("/usr/share/misc/magic.mgc")


def build(outer: Kernel, files: Mapping[str, Path], scratch: Path) -> GuestImage:
    """Return the image for a guest of kernel `outer`, with `files` (guest path → file) in it.

    It has 180 MB, which lie in `scratch` and not in the user's cache.
    """
    payload = _host() | _modules(outer)
    payload |= {path: Entry(file.read_bytes()) for path, file in files.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSCONFORM_CACHE", str(scratch))
        # Making the layer that all guest images have in common takes a compiler's tools.
        image.build({})
        for layer in scratch.glob("images/base-*.cpio"):
            payload[f"{CACHE}/images/{layer.name}"] = Entry(layer.read_bytes())
        return image.build(payload)


def _host() -> dict[str, Entry]:
    """Return nsconform, installed, and all that it needs of a host."""
    purelib, scripts = places()
    return {
        "init": _init(),
        # virtme-run asks for the name of its user.
        "etc/passwd": Entry(b"root:x:0:0:root:/root:/bin/sh\n"),
        **{f"{scripts}/{name}": _script(name) for name in _SCRIPTS},
        **dict(_libraries(purelib)),
        **dict(_project(purelib)),
        **dict(_standard_library()),
        **_programs(),
    }


def library() -> Path:
    """Return the libarchive of this process, a file of the guest too."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in maps if "/libarchive.so" in line)


def _init() -> Entry:
    source = Path(__file__).with_name("nested_init.py").read_bytes()
    return Entry(f"#!{executable()} -u\n".encode() + source, 0o755)


@cache
def places() -> tuple[str, str]:
    """Return where modules and scripts are installed in the guest, which has no .venv."""
    ask = "import sysconfig; print(*map(sysconfig.get_path, ('purelib', 'scripts')), sep='\\n')"
    argv = [str(executable()), "-I", "-c", ask]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")
    return told[0].lstrip("/"), told[1].lstrip("/")


def _script(name: str) -> Entry:
    point = metadata.entry_points(group="console_scripts")[name]
    lines = (
        f"#!{executable()}",
        "import sys",
        f"from {point.module} import {point.attr}",
        f"sys.exit({point.attr}())\n",
    )
    return Entry("\n".join(lines).encode(), 0o755)


def _libraries(purelib: str) -> Iterator[tuple[str, Entry]]:
    """Yield the distributions that nsconform requires."""
    for name in _required("nsconform") - {"nsconform"}:
        for file in metadata.distribution(name).files or ():
            if file.parts[0] != ".." and "__pycache__" not in file.parts:
                yield from _installed(Path(str(file.locate())), f"{purelib}/{file}")


def _required(name: str) -> set[str]:
    """Return the distributions that `name` consists of and needs."""
    found = {name}
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found |= _required(requirement.name)
    return found


def _project(purelib: str) -> Iterator[tuple[str, Entry]]:
    """Yield nsconform as pip would install it."""
    version = metadata.version("nsconform")
    about = f"Metadata-Version: 2.1\nName: nsconform\nVersion: {version}\n"
    yield f"{purelib}/nsconform-{version}.dist-info/METADATA", Entry(about.encode())
    for folder in ("vm", "harness", "suites"):
        for file in sorted((_PROJECT / folder).rglob("*")):
            if file.suffix in (".py", ".toml", ".ini"):
                yield from _installed(file, f"{purelib}/{file.relative_to(_PROJECT)}")


def _installed(file: Path, guest: str) -> Iterator[tuple[str, Entry]]:
    """Yield a file, and for a module its code: compiling is what an emulated CPU is slowest at."""
    yield guest, Entry(file.read_bytes())
    if file.suffix == ".py":
        yield cache_from_source(guest), Entry(compiled(file, guest, optimize=0))


def _standard_library() -> Iterator[tuple[str, Entry]]:
    """Yield the part of the standard library that guests do without and hosts need."""
    for name in _PACKAGES:
        for source in sorted(Path(sysconfig.get_path("stdlib"), name).rglob("*.py")):
            yield from _installed(source, str(source).lstrip("/"))


def _extensions() -> list[Path]:
    """Return the files of the modules in C that XML takes; some Pythons have them built in."""
    specs = [find_spec(name) for name in ("pyexpat", "_elementtree")]
    return [Path(spec.origin) for spec in specs if spec and spec.origin and spec.has_location]


def _programs() -> dict[str, Entry]:
    """Return the programs and extension modules, the libraries of them all, and the firmware."""
    programs = [_program(name) for name in _PROGRAMS]
    elf = [*programs, *_extensions(), library()]
    shell = _program("sh")
    files = {file: file for file in {*elf, *shared_libraries([*elf, shell])}}
    files |= {Path("/bin/sh"): shell, Path("/usr/share/misc/magic.mgc"): _MAGIC}
    files |= {file: file for file in map(_firmware, _FIRMWARE)}
    return {
        str(place).lstrip("/"): Entry(file.read_bytes(), 0o755) for place, file in files.items()
    }


def _program(name: str) -> Path:
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: a host of nsconform needs it")
    return Path(path)


def _firmware(name: str) -> Path:
    argv = [qemu.PROGRAM, "-L", "help"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    files = [Path(folder, name) for folder in told.split()]
    return next(file for file in files if file.exists())


def _modules(kernel: Kernel) -> dict[str, Entry]:
    """Return KVM's modules, unpacked, under names that sort in the order of loading."""
    version = kernel.origin.split()[-1]
    package = packages.fetch(f"linux-modules-{kernel.release}", version)
    content = _members(package.read_bytes(), {f"{name}.ko.xz" for name in _MODULES})
    return {
        f"nsconform/modules/{number}-{name}.ko": Entry(lzma.decompress(content[f"{name}.ko.xz"]))
        for number, name in enumerate(_MODULES)
    }


def _members(package: bytes, names: set[str]) -> dict[str, bytes]:
    """Return the files of a Debian package (deb(5): an archive in an archive) with these names."""
    with libarchive.memory_reader(package) as members:
        data = next(_bytes(member) for member in members if member.name.startswith("data.tar"))
    with libarchive.memory_reader(data) as members:
        return {
            name: _bytes(member) for member in members if (name := Path(member.name).name) in names
        }


def _bytes(member: Any) -> bytes:
    return b"".join(member.get_blocks())
