# SPDX-License-Identifier: GPL-2.0-only
"""The Python that runs in the guest: the one that runs the harness, trimmed.

Under emulation a megabyte of initramfs costs about 50 ms of every boot, so what no test can
want is left out, everything is precompiled, and the sources stay behind.
"""

import ast
import importlib.metadata
import marshal
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from vm.cpio import Entry
from vm.elf import shared_libraries
from vm.facade import on_demand

# Where pytest and what else is not of the standard library lies in the guest.
GUEST_PACKAGES = "nsconform/lib"

# What the guest has no use for: GUI, web, package installers, other people's tests, and what needs
# a library of its own.
_LEFT_OUT = frozenset(
    "__pycache__ asyncio curses dbm distutils ensurepip html http idlelib lib2to3 msilib "
    "pydoc_data site-packages sqlite3 test tests tkinter turtledemo venv wsgiref xml "
    "xmlrpc".split()
)
_ENCODINGS = frozenset(
    "__init__ aliases ascii charmap hex_codec idna latin_1 raw_unicode_escape unicode_escape "
    "utf_8 utf_16".split()
)
_EXTENSIONS_LEFT_OUT = (
    "_asyncio _bz2 _codecs_ _crypt _ctypes_test _curses _dbm _decimal _elementtree _gdbm "
    "_hashlib _lzma _multibytecodec _sqlite3 _ssl _test _tkinter _uuid _xx _zoneinfo audioop "
    "nis ossaudiodev pyexpat readline xxlimited"
).split()
# But for Pygments, which pytest wants as well: whoever runs it in the guest has to do without.
# hypothesis is loaded by the tests that explore only.
_DISTRIBUTIONS = (
    *("pytest", "pluggy", "iniconfig", "packaging"),
    *("hypothesis", "sortedcontainers"),
)
# What hypothesis has for other libraries, and for pytest, whose plugin is not for a guest.
_FOR_OTHERS = frozenset(("hypothesis/extra", "_hypothesis_pytestplugin.py"))
# Modules of the standard library that are large, and neither a test's nor hypothesis' business.
_LARGE = frozenset(
    "_pyio aifc asynchat asyncore cgi cgitb ftplib imaplib mailbox mailcap modulefinder nntplib "
    "optparse pickletools plistlib poplib pstats pyclbr pydoc smtpd smtplib ssl sunau tarfile "
    "telnetlib turtle wave webbrowser zipapp".split()
)


def fingerprint() -> str:
    """Name everything that decides what `guest_files` returns."""
    versions = [f"{name}={importlib.metadata.version(name)}" for name in _DISTRIBUTIONS]
    return "\n".join([sys.version, os.path.realpath(sys.executable), *versions])


def executable() -> Path:
    """Return the path of the interpreter, the same on the host and in the guest.

    ELF files keep their places, because search paths (RPATH, $ORIGIN) and Python's own way of
    finding its library start from there.
    """
    return Path(sys.executable).resolve()


def guest_files() -> dict[str, Entry]:
    """Return interpreter, libraries, standard library, pytest and hypothesis as guest path →
    entry."""
    elf = {path: _inside(path) for path in (executable(), *_extensions())}
    for package in _packages():
        for path in package.rglob("*.so"):
            elf[path] = f"{GUEST_PACKAGES}/{path.relative_to(package.parent)}"
    with tempfile.TemporaryDirectory(prefix="nsconform-") as scratch:
        strip = _Stripper(Path(scratch))
        files = {inside: Entry(strip(path), 0o755) for path, inside in elf.items()}
        files |= {_inside(path): Entry(strip(path), 0o755) for path in shared_libraries(elf)}
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    files |= _modules(stdlib, _inside(stdlib), optimize=2)
    for package in _packages():
        files |= _modules(package, f"{GUEST_PACKAGES}/{package.name}", optimize=0)
    outside = tuple(f"{GUEST_PACKAGES}/{name}" for name in _FOR_OTHERS)
    return {path: entry for path, entry in files.items() if not path.startswith(outside)}


def compiled(source: Path, guest_path: str, *, optimize: int) -> bytes:
    """Compile a module as a .pyc that needs no source beside it (PEP 552, unchecked hash)."""
    tree = ast.parse(source.read_bytes())
    if guest_path == f"{GUEST_PACKAGES}/pytest/__init__.py":
        tree = on_demand(tree)
    _drop_docstrings(tree)
    code = compile(tree, "/" + guest_path, "exec", dont_inherit=True, optimize=optimize)
    return MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _drop_docstrings(tree: ast.Module) -> None:
    """Take the docstrings away that `optimize` leaves, a sixth of pytest.

    optimize=2 is no way for pytest: its asserts would go too, and what it calls the compiled form
    of a test module, and so whether it finds it, depends on __debug__.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            # Nothing may stand before a module's `from __future__`; a class needs some statement.
            node.body[0:1] = [] if node.body[1:] else [ast.copy_location(ast.Pass(), node.body[0])]


class _Stripper:
    """Reads ELF files without their debug information: 15 MB in a Python built by oneself."""

    def __init__(self, scratch: Path) -> None:
        self._strip = shutil.which("strip")
        self._scratch = scratch

    def __call__(self, file: Path) -> bytes:
        if self._strip is None:
            return file.read_bytes()
        stripped = self._scratch / file.name
        subprocess.run([self._strip, "-o", str(stripped), str(file)], check=True)
        return stripped.read_bytes()


def _inside(path: Path) -> str:
    return str(path).lstrip("/")


def _extensions() -> Iterator[Path]:
    folder = sysconfig.get_config_var("DESTSHARED")
    for path in sorted(Path(folder).glob("*.so")):
        if not path.name.startswith(tuple(_EXTENSIONS_LEFT_OUT)):
            yield path


def _modules(top: Path, guest: str, *, optimize: int) -> dict[str, Entry]:
    """Compile one module, or all that is wanted of a package, to guest path → entry."""
    sources = (
        {guest: top}
        if top.is_file()
        else {
            f"{guest}/{source.relative_to(top)}": source
            for source in top.rglob("*.py")
            if _is_wanted(source.relative_to(top))
        }
    )
    return {
        target + "c": Entry(compiled(source, target, optimize=optimize))
        for target, source in sources.items()
    }


def _is_wanted(relative: Path) -> bool:
    if relative.parts[0] == "encodings":
        return relative.stem in _ENCODINGS
    folders = relative.parts[:-1]
    if Path(relative.parts[0]).stem in _LARGE:
        return False
    return not _LEFT_OUT.intersection(folders) and not relative.parts[0].startswith("config-")


def _packages() -> Iterator[Path]:
    """Yield the top-level modules and packages of pytest and what it imports."""
    for name in _DISTRIBUTIONS:
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.suffix == ".py"}
        for top in sorted(tops - {".."}):
            yield Path(str(distribution.locate_file(top)))
