# SPDX-License-Identifier: GPL-2.0-only
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vm import apt, packages
from vm.apt import Source
from vm.cache import atomic_path, cache_dir, scratch_folder
from vm.errors import ConfigError

DEB822 = """\
# the archive
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF

Types: deb
URIs: http://mirror.invalid/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def index_age(seconds: float) -> None:
    index = cache_dir("apt") / "index.json"
    os.utime(index, (time.time() - seconds,) * 2)


def test_versions_sort_as_dpkg_sorts_them() -> None:
    ordered = [
        "6.1.176-1", "6.12.90-1~bpo12+1", "6.12.90-1", "6.12.90-2~bpo12+1", "6.12.95-1",
        "6.12.107-1", "6.18.15-1~bpo13+1", "6.19~rc8-1~exp1", "6.19-1~exp1", "6.19.6-2~bpo13+1",
        "7.3~rc7-1~exp1", "7.3.4-1", "7.3.4-1+b1", "10.0-1",
    ]  # fmt: skip
    assert sorted(set(ordered), key=packages.version_key) == ordered


def test_a_stanza_keeps_all_but_its_suites(tmp_path: Path) -> None:
    file = tmp_path / "debian.sources"
    file.write_text(DEB822)
    made = Source(f"{file}:1", ()).with_suites(["sid", "trixie", "sid"])
    assert made.suffix == ".sources"
    assert made.text == (
        "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: sid trixie\n"
        "Components: main contrib\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n"
    )
    second = Source(f"{file}:2", ()).with_suites(["trixie-security"])
    assert "http://mirror.invalid/debian-security\nSuites: trixie-security\n" in second.text


def test_a_one_line_source_becomes_a_line_for_each_suite(tmp_path: Path) -> None:
    file = tmp_path / "sources.list"
    file.write_text(
        "# mine\ndeb [signed-by=/key.gpg arch=amd64] http://m.invalid/d bookworm main x\n"
    )
    made = Source(f"{file}:2", ()).with_suites(["bookworm", "sid"])
    assert made.suffix == ".list"
    options = "deb [signed-by=/key.gpg arch=amd64] http://m.invalid/d"
    assert made.text == f"{options} bookworm main x\n{options} sid main x\n"


def test_a_source_that_nobody_understands_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sources.list"
    file.write_text("rpm http://mirror.invalid bookworm main\n")
    with pytest.raises(ConfigError, match=r"cannot understand.*rpm http"):
        Source(f"{file}:1", ()).with_suites(["sid"])


def test_other_peoples_repositories_are_not_taken_for_the_archive(mirror: Any) -> None:
    mirror.targets = [
        ("/etc/vendor.list:1", "bookworm", "bookworm", "Vendor", "main"),
        ("/etc/unread.list:1", "bookworm", "$(CODENAME)", "$(ORIGIN)", "main"),
        ("/etc/debian.sources:1", "bookworm", "$(CODENAME)", "$(ORIGIN)", "contrib"),
        ("/etc/debian.sources:1", "bookworm", "$(CODENAME)", "$(ORIGIN)", "main"),
        ("/etc/debian.sources:1", "bookworm-updates", "$(CODENAME)", "$(ORIGIN)", "main"),
        ("/etc/debian.sources:2", "bookworm-security", "$(CODENAME)", "$(ORIGIN)", "main"),
    ]
    mirror.save()
    found = apt.machine_sources()
    assert found.codename == "bookworm"
    assert found.archive == Source("/etc/debian.sources:1", ("bookworm", "bookworm-updates"))
    assert found.security == Source("/etc/debian.sources:2", ("bookworm-security",))


def test_a_machine_that_follows_stable_has_an_archive_too(mirror: Any) -> None:
    mirror.targets = [("/etc/apt/sources.list:3", "stable", "$(CODENAME)", "$(ORIGIN)", "main")]
    mirror.save()
    assert apt.machine_sources().archive == Source("/etc/apt/sources.list:3", ("stable",))


def test_no_source_of_the_release_is_an_error(mirror: Any) -> None:
    mirror.targets = []
    mirror.save()
    with pytest.raises(ConfigError, match="no source of its own release 'bookworm'"):
        apt.machine_sources()


def test_a_machine_without_apt_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "env").symlink_to("/usr/bin/env")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no apt-get here"):
        apt.machine_sources()


def test_newest_first_one_package_for_each_version(mirror: Any) -> None:
    mirror.add("trixie", "linux-image-6.12.95-cloud-amd64-unsigned", "6.12.95-1")
    mirror.add("trixie", "linux-image-6.12.95-cloud-amd64", "6.12.95-1")
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    mirror.add("sid", "linux-binary-unsigned-7.3.4-cloud-amd64", "7.3.4-1")
    mirror.add("sid", "linux-binary-7.3.4-cloud-amd64", "7.3.4-1")
    for other in ("linux-image-7.3.4-amd64", "linux-image-7.3.4-cloud-amd64-dbg",
                  "linux-image-cloud-amd64"):  # fmt: skip
        mirror.add("sid", other, "7.3.4-1")
    assert [(offer.version, offer.suite, offer.package) for offer in packages.offered()] == [
        ("7.3.4-1", "sid", "linux-binary-7.3.4-cloud-amd64"),
        ("6.12.95-1", "trixie", "linux-image-6.12.95-cloud-amd64"),
    ]


def test_suites_are_selected_by_any_of_their_names(mirror: Any) -> None:
    mirror.add("trixie", "linux-image-6.12.95-cloud-amd64", "6.12.95-1")
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    mirror.suites["sid"] = "unstable"
    mirror.save()
    assert [offer.upstream for offer in packages.offered(["unstable"])] == ["7.3.4"]
    assert [offer.upstream for offer in packages.offered(["sid", "trixie"])] == ["7.3.4", "6.12.95"]


def test_lists_are_fetched_once_a_day(mirror: Any) -> None:
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    packages.offered()
    packages.offered()
    packages.offered(again=True)
    assert len(mirror.calls("update")) == 1
    index_age(3600)
    packages.offered()
    assert len(mirror.calls("update")) == 1
    packages.offered(again=True)
    assert len(mirror.calls("update")) == 2
    index_age(25 * 3600)
    packages.offered()
    assert len(mirror.calls("update")) == 3


def test_an_unusual_suite_is_looked_for_once_and_remembered(mirror: Any) -> None:
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    mirror.add("bullseye", "linux-image-5.10.223-cloud-amd64", "5.10.223-1")
    assert [offer.upstream for offer in packages.offered()] == ["7.3.4"]
    assert [offer.upstream for offer in packages.offered(["bullseye"])] == ["5.10.223"]
    assert len(mirror.calls("update")) == 2
    assert [offer.upstream for offer in packages.offered()] == ["7.3.4", "5.10.223"]
    index_age(25 * 3600)
    assert [offer.upstream for offer in packages.offered()] == ["7.3.4", "5.10.223"]


def test_an_unknown_suite_is_an_error_that_names_the_known(mirror: Any) -> None:
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    for _ in range(2):
        with pytest.raises(ConfigError, match="no suite 'sidd'; it has sid"):
            packages.offered(["sidd"])
    assert len(mirror.calls("update")) == 1


def test_without_a_mirror_what_was_fetched_is_offered(mirror: Any) -> None:
    mirror.online = False
    mirror.save()
    with pytest.raises(ConfigError, match=r"cannot read the package lists.*Could not resolve"):
        packages.offered()
    (cache_dir("packages") / "linux-image-6.12.95-cloud-amd64_6.12.95-1.deb").touch()
    (cache_dir("packages") / "linux-modules-6.12.95-cloud-amd64_6.12.95-1.deb").touch()
    offers = packages.offered()
    assert [(offer.version, offer.suite, offer.cached) for offer in offers] == [
        ("6.12.95-1", "cache", True)
    ]


def test_what_the_mirror_dropped_stays_on_offer(mirror: Any) -> None:
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    mirror.add("sid", "linux-image-7.3.3-cloud-amd64", "7.3.3-1")
    packages.fetch("linux-image-7.3.3-cloud-amd64", "7.3.3-1")
    mirror.drop("linux-image-7.3.3-cloud-amd64", "7.3.3-1")
    index_age(25 * 3600)
    assert [(offer.version, offer.suite, offer.cached) for offer in packages.offered()] == [
        ("7.3.4-1", "sid", False),
        ("7.3.3-1", "cache", True),
    ]


def test_a_damaged_index_is_made_anew(mirror: Any) -> None:
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    (cache_dir("apt") / "index.json").write_text('{"suites": ')
    assert [offer.upstream for offer in packages.offered()] == ["7.3.4"]


def test_processes_that_want_the_same_package_fetch_it_once(mirror: Any) -> None:
    mirror.add("sid", "linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    wanted = ("linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    with ThreadPoolExecutor(4) as pool:
        files = {task.result() for task in [pool.submit(packages.fetch, *wanted) for _ in range(4)]}
    assert len(files) == 1
    assert len(mirror.calls("download")) == 1
    assert sorted(file.name for file in cache_dir("packages").iterdir()) == [
        ".lock",
        "linux-image-7.3.4-cloud-amd64_7.3.4-1.deb",
    ]


def test_a_failed_download_leaves_nothing(mirror: Any) -> None:
    mirror.add("sid", "linux-image-7.3.5-cloud-amd64", "7.3.5-1")
    with pytest.raises(ConfigError, match="Failed to fetch linux-image"):
        packages.fetch("linux-image-7.3.4-cloud-amd64", "7.3.4-1")
    assert [file.name for file in cache_dir("packages").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"NSCONFORM_CACHE": "/a/b"}, "/a/b"),
        ({"NSCONFORM_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/nsconform"),
        ({"XDG_CACHE_HOME": "not/absolute", "HOME": "/h"}, "/h/.cache/nsconform"),
        ({"HOME": "/h"}, "/h/.cache/nsconform"),
    ],
)
def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    for name in ("NSCONFORM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made: list[Path] = []
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: made.append(self))
    assert cache_dir("kernels") == Path(folder, "kernels")
    assert made == [Path(folder, "kernels")]


def test_a_cache_that_cannot_be_made_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set NSCONFORM_CACHE"):
        cache_dir("kernels")


def test_an_unfinished_file_never_has_the_final_name(tmp_path: Path) -> None:
    final = tmp_path / "vmlinuz"
    final.write_text("old")
    with contextlib.suppress(KeyboardInterrupt), atomic_path(final) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("vmlinuz", "old")]
    with atomic_path(final) as temporary:
        temporary.write_text("new")
        assert final.read_text() == "old"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("vmlinuz", "new")]


def test_what_a_killed_process_left_in_the_scratch_folder_goes(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "left").touch()
    with scratch_folder(tmp_path) as scratch:
        assert list(scratch.iterdir()) == []
        (scratch / "more").touch()
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]
