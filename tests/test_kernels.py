# SPDX-License-Identifier: GPL-2.0-only
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vm import archives, bzimage, kernels, packages, qemu
from vm.errors import ConfigError

RELEASE = "7.3.4+deb13-cloud-amd64"
ARM64_IMAGE = b"\0" * 0x38 + b"ARM\x64" + b"\0" * 0x1000
ARM64_ELF = b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\0\xb7\0" + b"\0" * 0x1000
S390_ELF = b"\x7fELF\x02\x02\x01" + b"\0" * 9 + b"\0\x02\0\x16" + b"\0" * 0x1000
X86_ELF = b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\0\x3e\0" + b"\0" * 0x1000

Maker = Callable[..., bytes]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def left_in(cache: Path) -> set[str]:
    return {str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file()}


def test_a_boot_image_tells_its_release(make_bzimage: Maker, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(make_bzimage(RELEASE))
    kernel = kernels.resolve(str(image))
    assert kernel == kernels.Kernel(
        spec=str(image),
        image=image,
        release=RELEASE,
        arch="x86_64",
        origin=f"file {image}",
        sha256=hashlib.sha256(image.read_bytes()).hexdigest(),
        config=None,
    )


def test_a_signature_behind_the_image_does_no_harm(make_bzimage: Maker, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(make_bzimage(RELEASE) + b"signature")
    assert bzimage.read(image).release == RELEASE


def test_the_configuration_beside_an_image_is_found(make_bzimage: Maker, tmp_path: Path) -> None:
    image = tmp_path / f"vmlinuz-{RELEASE}"
    image.write_bytes(make_bzimage(RELEASE))
    config = tmp_path / f"config-{RELEASE}"
    config.touch()
    assert kernels.resolve(str(image)).config == config


def test_a_tree_stands_for_the_image_built_in_it(make_bzimage: Maker, tmp_path: Path) -> None:
    boot = tmp_path / "arch/x86/boot"
    boot.mkdir(parents=True)
    (boot / "bzImage").write_bytes(make_bzimage("7.4.0-rc1+"))
    (tmp_path / ".config").touch()
    kernel = kernels.resolve(str(tmp_path))
    assert (kernel.release, kernel.image) == ("7.4.0-rc1+", boot / "bzImage")
    assert kernel.config == tmp_path / ".config"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is an empty file"),
        (b"a text file\n" * 100, "is not a kernel image"),
        (b"\x55\xaa", "is not a kernel image"),
        (ARM64_IMAGE, "is a kernel for arm64"),
        (ARM64_ELF, "is a kernel or program for arm64"),
        (S390_ELF, "is a kernel or program for s390x"),
        (X86_ELF, "is an ELF file, not a boot image"),
        (b"\x1f\x8b\x08" + b"\0" * 100, "is a gzip file"),
    ],
)
def test_what_is_no_kernel_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        kernels.resolve(str(image))
    assert str(caught.value).startswith(f"{image} {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_cut_off_image_is_refused(make_bzimage: Maker, tmp_path: Path, kept: float) -> None:
    whole = make_bzimage(RELEASE, payload=b"code" * 4096)
    image = tmp_path / "bzImage"
    image.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ConfigError, match=f"is cut off: .* bytes of {len(whole)}"):
        kernels.resolve(str(image))


def test_a_32_bit_image_is_refused(make_bzimage: Maker, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(make_bzimage(RELEASE, flags=0))
    with pytest.raises(ConfigError, match="is a 32-bit x86 kernel"):
        kernels.resolve(str(image))


def test_specs_that_name_nothing(tmp_path: Path) -> None:
    (tmp_path / "fifo").touch()
    (tmp_path / "fifo").unlink()
    os.mkfifo(tmp_path / "fifo")
    expected = {
        "": "no such file",
        str(tmp_path / "missing"): "no such file",
        str(tmp_path / "fifo"): "not a regular file",
        str(tmp_path): "is a directory without a kernel",
        "debian:": "names no version and no suite",
    }
    for spec, said in expected.items():
        with pytest.raises(ConfigError, match=said):
            kernels.resolve(spec)


def test_host_is_the_image_of_the_running_kernel(
    make_bzimage: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "usr/lib/modules" / os.uname().release / "vmlinuz"
    image.parent.mkdir(parents=True)
    image.write_bytes(make_bzimage(RELEASE))
    monkeypatch.setattr(kernels, "_HOST_ROOT", tmp_path)
    assert kernels.resolve("host").image == image
    image.unlink()
    with pytest.raises(ConfigError, match="no image of the running kernel"):
        kernels.resolve("host")


@pytest.mark.parametrize(
    "path",
    [
        f"./boot/vmlinuz-{RELEASE}",
        f"boot/vmlinuz-{RELEASE}",
        f"./usr/lib/modules/{RELEASE}/vmlinuz",
        f"./lib/modules/{RELEASE}/vmlinuz",
    ],
)
def test_a_package_gives_its_kernel(
    make_bzimage: Maker, make_deb: Maker, tmp_path: Path, cache: Path, path: str
) -> None:
    package = tmp_path / "kernel.deb"
    files = {"./usr/share/doc/x": b"text", path: make_bzimage(RELEASE)}
    package.write_bytes(make_deb({**files, f"./boot/config-{RELEASE}": b"CONFIG_NAMESPACES=y\n"}))
    kernel = kernels.resolve(str(package), cache=cache)
    assert (kernel.release, kernel.origin) == (RELEASE, "package file kernel.deb")
    assert kernel.image.read_bytes() == make_bzimage(RELEASE)
    assert kernel.config is not None
    assert kernel.config.read_bytes() == b"CONFIG_NAMESPACES=y\n"
    assert kernels.resolve(str(package), cache=cache) == kernel


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"./usr/share/doc/linux-image/copyright": b"GPL"},
        {"./usr/lib/debug/boot/vmlinux-7.3.4": b"ELF"},
        {"./boot/../../etc/vmlinuz-7.3.4": b"outside"},
        {"/boot/vmlinuz-7.3.4": b"absolute"},
    ],
)
def test_a_package_without_a_kernel_is_refused(
    make_deb: Maker, tmp_path: Path, cache: Path, files: dict[str, bytes]
) -> None:
    package = tmp_path / "other.deb"
    package.write_bytes(make_deb(files))
    with pytest.raises(ConfigError, match="holds no kernel image"):
        kernels.resolve(str(package), cache=cache)
    assert left_in(cache) == {"kernels/.lock"}


@pytest.mark.parametrize("content", [b"", b"no package", b"!<arch>\n"])
def test_what_is_no_package_is_refused(tmp_path: Path, cache: Path, content: bytes) -> None:
    package = tmp_path / "broken.deb"
    package.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.deb"):
        kernels.resolve(str(package), cache=cache)


def test_a_cut_off_package_is_refused(
    make_bzimage: Maker, make_deb: Maker, tmp_path: Path, cache: Path
) -> None:
    whole = make_deb({f"./boot/vmlinuz-{RELEASE}": make_bzimage(RELEASE, payload=os.urandom(9999))})
    package = tmp_path / "cut.deb"
    package.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ConfigError, match="cannot read the package"):
        kernels.resolve(str(package), cache=cache)
    assert left_in(cache) == {"kernels/.lock"}


def test_a_package_cannot_fill_the_disk(
    make_deb: Maker, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "bomb.deb"
    package.write_bytes(make_deb({"./boot/vmlinuz-1": bytes(2 << 20)}))
    limited = archives._Wanted(archives._IMAGE.paths, 1 << 20)
    monkeypatch.setattr(archives, "_IMAGE", limited)
    with pytest.raises(ConfigError, match="more than 1 MB"):
        kernels.resolve(str(package), cache=cache)
    assert left_in(cache) == {"kernels/.lock"}


@pytest.fixture
def stocked(mirror: Any) -> Any:
    """A mirror with kernels before and after listns(2), one of them in two revisions."""
    for suite, package, version in (
        ("trixie", "linux-image-6.12.94+deb13-cloud-amd64", "6.12.94-1"),
        ("trixie", "linux-image-6.12.95+deb13-cloud-amd64", "6.12.95-1"),
        ("bookworm", "linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"),
        ("bookworm", "linux-image-6.12.95+deb12-cloud-amd64", "6.12.95-1~bpo12+1"),
        ("experimental", "linux-binary-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
        ("sid", "linux-binary-7.3.4+deb14-cloud-amd64", "7.3.4-1"),
    ):
        mirror.add(suite, package, version)
    return mirror


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("7.3.4", "7.3.4-1"),
        ("7.3", "7.3.4-1"),
        ("7.3~rc7", "7.3~rc7-1~exp1"),
        ("6.12", "6.12.95-1"),
        ("6.12.95", "6.12.95-1"),
        ("6.12.95-1~bpo12+1", "6.12.95-1~bpo12+1"),
        ("6.1", "6.1.176-1"),
        ("6", "6.12.95-1"),
        ("bookworm", "6.12.95-1~bpo12+1"),
        ("experimental", "7.3~rc7-1~exp1"),
        ("newest", "7.3.4-1"),
        ("newest-with-listns", "7.3.4-1"),
        ("newest-without-listns", "6.12.95-1"),
    ],
)
def test_what_the_mirror_packages_goes_by_version_suite_and_role(
    stocked: Any, wanted: str, version: str
) -> None:
    kernel = kernels.resolve(f"debian:{wanted}")
    assert kernel.spec == f"debian:{wanted}"
    assert kernel.release == version  # the made-up images have their package's version as release
    assert version in kernel.origin
    assert len(stocked.calls("download")) == 1


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("6.12.96", "debian:6.12.94, debian:6.12.95, debian:7.3~rc7, debian:7.3.4"),
        ("6.12.9", "debian:6.1.176, debian:6.12.94, debian:6.12.95"),
        ("8", "debian:7.3~rc7, debian:7.3.4"),
        ("6.1.17", "debian:6.1.176, debian:6.12.94"),
    ],
)
def test_an_unknown_version_is_told_its_neighbours(stocked: Any, wanted: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kernels.resolve(f"debian:{wanted}")
    assert str(caught.value) == (
        f"debian:{wanted} is not offered by this machine's mirror; nearest: {nearest}"
    )
    assert stocked.calls("download") == []


def test_what_was_fetched_needs_no_mirror(stocked: Any) -> None:
    kernel = kernels.resolve("debian:7.3.4")
    stocked.drop("linux-binary-7.3.4+deb14-cloud-amd64", "7.3.4-1")
    stocked.online = False
    stocked.save()
    calls = len(stocked.calls("-o"))
    assert kernels.resolve("debian:7.3.4") == kernel
    assert len(stocked.calls("-o")) == calls


def test_a_role_falls_back_to_what_was_fetched(
    stocked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    older = kernels.newest_with_listns()
    stocked.add("sid", "linux-binary-7.3.5+deb14-cloud-amd64", "7.3.5-1")
    stocked.drop("linux-binary-7.3.4+deb14-cloud-amd64", "7.3.4-1")
    (Path(os.environ["NSCONFORM_CACHE"]) / "apt" / "index.json").unlink()
    assert packages.offered()[0].version == "7.3.5-1"
    stocked.online = False
    stocked.save()
    assert kernels.newest_with_listns().sha256 == older.sha256
    assert "using 7.3.4-1, fetched before" in caplog.text
    with pytest.raises(ConfigError, match="Failed to fetch"):
        kernels.newest_without_listns()


def test_lists_that_promise_too_much_are_renewed(stocked: Any) -> None:
    assert packages.offered()[0].version == "7.3.4-1"
    stocked.drop("linux-binary-7.3.4+deb14-cloud-amd64", "7.3.4-1")
    stocked.add("sid", "linux-binary-7.3.5+deb14-cloud-amd64", "7.3.5-1")
    index = Path(os.environ["NSCONFORM_CACHE"]) / "apt" / "index.json"
    os.utime(index, (index.stat().st_mtime - 3600,) * 2)
    assert kernels.resolve("debian:newest").release == "7.3.5-1"


def test_processes_that_want_the_same_kernel_get_the_same(stocked: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(kernels.resolve, "debian:newest") for _ in range(4)]
        assert len({task.result() for task in tasks}) == 1
    assert len(stocked.calls("download")) == 1
    assert len(stocked.calls("update")) == 1


def test_an_unreadable_cache_is_one_line(tmp_path: Path, make_deb: Maker) -> None:
    package = tmp_path / "kernel.deb"
    package.write_bytes(make_deb({}))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        kernels.resolve(str(package), cache=tmp_path / "file")


def fake_qemu(folder: Path, monkeypatch: pytest.MonkeyPatch, prints: str) -> None:
    program = folder / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{prints}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("line", "version", "careful"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2, 22), True),
        ("QEMU emulator version 8.1.0", (8, 1, 0), True),
        ("QEMU emulator version 8.2.0", (8, 2, 0), False),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", (10, 0, 2), False),
        ("QEMU emulator version 11.0.50 (v11.0.0-12-gabcdef)", (11, 0, 50), False),
    ],
)
def test_an_old_qemu_gets_one_cpu_when_it_emulates(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    version: tuple[int, ...],
    careful: bool,
) -> None:
    fake_qemu(tmp_path, monkeypatch, f"echo '{line}'")
    found = qemu.find()
    assert found.version == version
    assert str(found) == ".".join(map(str, version))
    caution = qemu.tcg_caution(found)
    assert (caution is not None) is careful
    if caution:
        assert caution.max_cpus == 1
        assert str(found) in caution.warning


def test_no_qemu_or_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="not installed; `make setup` installs it"):
        qemu.find()
    fake_qemu(tmp_path, monkeypatch, "echo 'libfdt.so.1: no such file' >&2; exit 127")
    with pytest.raises(ConfigError, match=r"does not tell its version: libfdt\.so\.1"):
        qemu.find()
