# SPDX-License-Identifier: GPL-2.0-only
"""The set-up with programs made up that only log how they were called."""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
NEEDED = ("sh", "cat", "dirname", "env", "sha256sum", "mkdir", "cp", "chmod")


@dataclass(frozen=True)
class Machine:
    """A clone of the project and a PATH in which only made-up programs are installed."""

    clone: Path
    programs: Path
    log: Path

    def install(self, name: str, script: str = "") -> None:
        """Put a program there that logs its arguments and then runs `script`."""
        program = self.programs / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.log}"\n{script}\n')
        program.chmod(0o755)

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sh", *argv],
            cwd=self.clone,
            env={"PATH": str(self.programs)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "clone", tmp_path / "programs", tmp_path / "log")
    made.programs.mkdir()
    shutil.copytree(REPOSITORY / "tools", made.clone / "tools")
    shutil.copytree(REPOSITORY / ".ci", made.clone / ".ci")
    shutil.copy(REPOSITORY / "pyproject.toml", made.clone)
    for name in NEEDED:
        (made.programs / name).symlink_to(shutil.which(name) or name)
    made.install("id", "echo 0")
    made.install("qemu-system-x86_64")
    return made


# What `python -m venv .venv` leaves: another interpreter that logs.
FAKE_PYTHON = 'case "$*" in *venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac'


def test_a_new_clone_gets_everything_and_an_old_one_nothing(machine: Machine) -> None:
    machine.install("python3", FAKE_PYTHON)
    done = machine.run("tools/setup.sh")
    assert done.returncode == 0, done.stderr
    assert [call for call in machine.calls if " -c " not in call] == [
        "python3 -m tools.system_packages",
        "python3 -m venv --clear .venv",
        "python3 -m pip install --quiet --disable-pip-version-check --editable .[dev]",
    ]
    machine.log.unlink()
    again = machine.run("tools/setup.sh")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert machine.calls == ["python3 -c "]


@pytest.mark.parametrize("change", ["pyproject.toml", "tools/setup.sh", "tools/system_packages.py"])
def test_a_change_of_the_project_sets_it_up_again(machine: Machine, change: str) -> None:
    machine.install("python3", FAKE_PYTHON)
    machine.run("tools/setup.sh")
    machine.log.unlink()
    with (machine.clone / change).open("a") as file:
        file.write("\n# changed\n")
    assert machine.run("tools/setup.sh").returncode == 0
    assert machine.calls[-1].startswith("python3 -m pip install")
    assert "python3 -m venv --clear .venv" not in machine.calls


def test_a_qemu_that_went_away_is_installed_again(machine: Machine) -> None:
    machine.install("python3", FAKE_PYTHON)
    machine.run("tools/setup.sh")
    machine.log.unlink()
    (machine.programs / "qemu-system-x86_64").unlink()
    assert machine.run("tools/setup.sh").returncode == 0
    assert "python3 -m tools.system_packages" in machine.calls


def test_a_set_up_that_failed_is_not_taken_for_done(machine: Machine) -> None:
    failing = 'case "$*" in *pip\\ install*) exit 1;; esac'
    machine.install("python3", f"{FAKE_PYTHON}\n{failing}")
    assert machine.run("tools/setup.sh").returncode == 1
    machine.install("python3", FAKE_PYTHON)
    shutil.copy(machine.programs / "python3", machine.clone / ".venv/bin/python")
    machine.log.unlink()
    assert machine.run("tools/setup.sh").returncode == 0
    assert machine.calls[-1].startswith("python3 -m pip install")


def test_python_comes_from_the_distribution(machine: Machine) -> None:
    machine.install("python3", 'case "$*" in *ensurepip*) exit 1;; esac')
    machine.install("apt-get", f'cp "{machine.programs}/good" "{machine.programs}/python3"')
    machine.install("good", FAKE_PYTHON)
    setup = machine.clone / "tools/setup.sh"
    setup.write_text(setup.read_text().replace("/usr/bin/python3", "/nowhere/python3"))
    done = machine.run("tools/setup.sh")
    assert done.returncode == 0, done.stderr
    installs = [call for call in machine.calls if call.startswith("apt-get") and "install" in call]
    assert len(installs) == 1
    assert installs[0].endswith("--no-remove --no-install-recommends install python3 python3-venv")


def test_a_release_with_an_old_python_is_told_so(machine: Machine) -> None:
    machine.install("python3", 'case "$*" in *ensurepip*) exit 1;; esac')
    machine.install("apt-get")
    setup = machine.clone / "tools/setup.sh"
    setup.write_text(setup.read_text().replace("/usr/bin/python3", "/nowhere/python3"))
    done = machine.run("tools/setup.sh")
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr


def test_without_root_the_command_to_type_is_printed(machine: Machine) -> None:
    machine.install("id", "echo 1000")
    machine.install("apt-get")
    done = machine.run("tools/apt-install.sh", "make")
    assert done.returncode == 2
    typed = done.stderr.splitlines()[-1].strip()
    assert typed.startswith("apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get")
    assert typed.endswith("install make")
    assert not any(call.startswith("apt-get") for call in machine.calls)


def test_sudo_without_a_terminal_does_not_ask(machine: Machine) -> None:
    machine.install("id", "echo 1000")
    machine.install("apt-get")
    machine.install("sudo", '[ "$1" = -n ] && shift; exec "$@"')
    assert machine.run("tools/apt-install.sh", "make").returncode == 0
    assert any(call.startswith("sudo -n sh -c") for call in machine.calls)
    assert machine.calls[-1].endswith("install make")
    machine.install("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    done = machine.run("tools/apt-install.sh", "make")
    assert done.returncode == 2
    assert "a password is required" in done.stderr
    assert "As root, type:" in done.stderr


def test_another_system_is_told_what_to_install(machine: Machine) -> None:
    done = machine.run("tools/apt-install.sh", "make")
    assert done.returncode == 2
    assert "install make by the means of this system" in done.stderr


def test_ci_runs_make_test(machine: Machine) -> None:
    machine.install("make")
    assert machine.run(".ci/run").returncode == 0
    assert machine.calls == ["make test"]


def test_ci_installs_make_where_there_is_none(machine: Machine) -> None:
    machine.install("good")
    machine.install("apt-get", f'cp "{machine.programs}/good" "{machine.programs}/make"')
    assert machine.run(".ci/run").returncode == 0
    assert machine.calls[-1] == "good test"


@pytest.fixture
def system_packages(mirror: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, on a machine where all is missing and the mirror has backports."""
    path = REPOSITORY / "tools" / "system_packages.py"
    spec = importlib.util.spec_from_file_location("system_packages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    mirror.suites = {"bookworm": "oldstable", "bookworm-backports": "oldstable-backports"}
    mirror.save()
    # Neither the machine's QEMU nor its sudo counts.
    for name in ("env", "sh"):
        (mirror.folder / "bin" / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(mirror.folder / "bin"))
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return module


def all_but_qemu(mirror: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (mirror.folder / "bin" / "file").symlink_to("/bin/true")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.13")


def qemu_of(mirror: Any, version: str) -> None:
    program = mirror.folder / "bin" / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\necho QEMU emulator version {version}\n")
    program.chmod(0o755)


def test_qemu_is_taken_from_backports(mirror: Any, system_packages: ModuleType) -> None:
    assert system_packages.main() == 0
    rehearsal, real = mirror.calls("install")
    assert "--simulate" in rehearsal
    assert "--simulate" not in real
    for word in ("--no-remove", "--no-install-recommends", "Dir::Etc::sourcelist=/dev/null",
                 "--target-release bookworm-backports"):  # fmt: skip
        assert word in real
    assert real.endswith("install qemu-system-x86 libarchive13 file")
    sources = Path(os.environ["NSCONFORM_CACHE"], "apt-install", "sources")
    assert [file.read_text() for file in sources.iterdir()] == [
        "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-backports\n"
        "Components: main\n"
    ]


def test_a_release_with_a_good_qemu_needs_no_backports(
    mirror: Any, system_packages: ModuleType
) -> None:
    mirror.qemu = "1:10.0.2+ds-2"
    mirror.save()
    assert system_packages.main() == 0
    assert "--target-release" not in mirror.calls("install")[-1]


def test_what_is_there_is_left_alone(
    mirror: Any, system_packages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu_of(mirror, "8.2.0")
    all_but_qemu(mirror, monkeypatch)
    assert system_packages.main() == 0
    assert mirror.calls("-o") == []


@pytest.mark.parametrize(
    "line",
    [
        "Remv systemd [252.36-1~deb12u1]",
        "Inst libc6 [2.36-9] (2.42-1~bpo12+1 Debian Backports:12/oldstable-backports [amd64])",
    ],
)
def test_an_installation_that_would_change_the_system_is_refused(
    mirror: Any, system_packages: ModuleType, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.rehearsal = line
    mirror.save()
    assert system_packages.main() == 2
    assert f"would change this system: {line}" in capsys.readouterr().err
    assert all("--simulate" in call for call in mirror.calls("install"))


@pytest.mark.parametrize(
    "line",
    [
        "Inst libc6 [2.36-9+deb12u10] (2.36-9+deb12u14 Debian:12.15/oldstable [amd64])",
        "Inst qemu-system-x86 [1:7.2] (1:10.0 Debian Backports:12/oldstable-backports [amd64])",
        "Inst libslirp0 (4.8.0 Debian Backports:12/oldstable-backports [amd64])",
    ],
)
def test_an_update_of_the_release_itself_is_allowed(
    mirror: Any, system_packages: ModuleType, line: str
) -> None:
    mirror.rehearsal = line
    mirror.save()
    assert system_packages.main() == 0


@pytest.mark.parametrize(("old_qemu", "status"), [(False, 2), (True, 0)])
def test_without_root_an_old_qemu_must_do(
    mirror: Any,
    system_packages: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old_qemu: bool,
    status: int,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    if old_qemu:
        qemu_of(mirror, "7.2.22")
        all_but_qemu(mirror, monkeypatch)
    assert system_packages.main() == status
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "As root, type:"
    assert said[-1].strip().startswith("apt-get -o Dir::State::lists=")
    assert all("--simulate" in call for call in mirror.calls("install"))


def test_a_mirror_that_fails_is_told(
    mirror: Any, system_packages: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.online = False
    mirror.save()
    assert system_packages.main() == 2
    assert "Could not resolve the mirror" in capsys.readouterr().err


def test_it_needs_nothing_but_the_standard_library() -> None:
    bare = [sys.executable, "-S", "-E", "-c", "import tools.system_packages"]
    assert subprocess.run(bare, cwd=REPOSITORY, timeout=30, check=False).returncode == 0
