# SPDX-License-Identifier: GPL-2.0-only
"""nsconform on a KVM that works, from the choice of it to the verdicts, and to kernels that hang.

The host is a guest with emulated virtualization (`tests.nested`), and the kernels are packaged
ones. With `pytest -s` every run is shown.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nested import Done, NestedHost, nested_host
from vm import kernels
from vm.accel import FIRST_LINE_SECONDS

pytestmark = pytest.mark.slow

_KERNEL, _LOOP = "nsconform/kernel", "nsconform/loop"
# A few tests for the runs in which it is not the verdicts that matter.
_FEW = ("--suite", "ids", "-k", "initial")
# One CPU is left to the host; deadlines are made for one that is ten times as fast.
_SLOW_HOST = ("--cpus", "1", "--memory", "512M", "--timeout-scale", "6")
_SECONDS = 900


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NestedHost]:
    kernel = kernels.newest_with_listns()
    loop = tmp_path_factory.mktemp("kvm") / "loop"
    loop.write_bytes(_endless_loop(kernel.image))
    with nested_host(kernel, {_KERNEL: kernel.image, _LOOP: loop}) as guest:
        yield guest


def _endless_loop(image: Path) -> bytes:
    """Return a kernel whose first instruction jumps to itself.

    Documentation/arch/x86/boot.rst: it is at offset 0x200, and a jump there too; `jmp .` is EB FE.
    """
    kernel = bytearray(image.read_bytes())
    kernel[0x200:0x202] = b"\xeb\xfe"
    return bytes(kernel)


def _run(host: NestedHost, *arguments: str, forget: bool = False) -> Done:
    done = host.nsconform(*arguments, seconds=_SECONDS, forget=forget)
    print(f"\nnsconform run {' '.join(arguments)}: status {done.status}, {done.seconds} s")
    print(done.output)
    print(json.dumps({"accel.json": done.memory, "run.json": _excerpt(done)}, indent=1))
    assert done.status is not None, "it did not end"
    assert done.processes == []
    return done


def _boots(done: Done) -> list[tuple[str, str]]:
    return [(boot["start"], boot["end"]) for boot in done.kernel["boots"]]


def _outcomes(done: Done) -> dict[str, str]:
    return {test["id"]: test["outcome"] for test in done.kernel["tests"]}


def _excerpt(done: Done) -> dict[str, Any]:
    """Return what run.json says about the kernel, the passed tests aside."""
    failed = [test for test in done.kernel["tests"] if test["outcome"] != "pass"]
    return done.kernel | {"tests": failed}


def test_auto_finds_out_that_kvm_works_and_saves_a_guest_that_goes_on_under_kvm(
    host: NestedHost,
) -> None:
    arguments = ("--accel", "auto", *_SLOW_HOST, f"/{_KERNEL}", "--suite", "ids")
    first = _run(host, *arguments, forget=True)
    assert first.status == 0
    assert _boots(first) == [("cold", "clean")]
    assert first.kernel["accel"] == "kvm"
    assert first.kernel["accel_reason"] == "KVM works on this host"
    assert {test["outcome"] for test in first.kernel["tests"]} == {"pass"}
    assert first.memory is not None
    assert json.loads(first.memory[0])["accel"] == "kvm"

    second = _run(host, *arguments)
    assert second.status == 0
    assert _boots(second) == [("restored", "clean")]
    assert second.kernel["accel"] == "kvm"
    assert _outcomes(second) == _outcomes(first)
    # A boot that was to find out would have written its answer down again.
    assert second.memory == first.memory


def test_kvm_on_demand(host: NestedHost) -> None:
    done = _run(host, "--accel", "kvm", *_SLOW_HOST, f"/{_KERNEL}", *_FEW, forget=True)
    assert done.status == 0
    assert _boots(done) == [("cold", "clean")]
    assert done.kernel["accel"] == "kvm"
    assert done.kernel["accel_reason"] == "asked for with --accel kvm"
    assert done.memory is None


def test_a_kernel_that_hangs_before_its_first_line(host: NestedHost) -> None:
    done = _run(host, "--accel", "kvm", "--cpus", "1", f"/{_LOOP}", *_FEW, forget=True)
    assert done.status == 3
    found = re.search(r"--accel kvm: the kernel did not boot in (\d+) s", done.output)
    assert found is not None
    assert int(found[1]) > FIRST_LINE_SECONDS, "this host is a slow one"
    assert {test["outcome"] for test in done.kernel["tests"]} == {"notrun"}


def test_a_kernel_that_hangs_teaches_nothing_about_kvm(host: NestedHost) -> None:
    arguments = ("--accel", "auto", "--cpus", "1", "--timeout-scale", "0.2", f"/{_LOOP}")
    done = _run(host, *arguments, *_FEW, forget=True)
    assert done.status == 3
    assert done.kernel["accel"] == "tcg"
    assert done.kernel["accel_reason"].startswith("KVM opened but the kernel did not boot in")
    assert done.memory is None


def test_a_kernel_that_hangs_while_it_boots_on_a_kvm_known_to_work(host: NestedHost) -> None:
    kernel = ("--accel", "auto", "--cpus", "1", f"/{_KERNEL}")
    known = _run(host, *kernel, "--timeout-scale", "6", *_FEW, forget=True)
    # Without the program of the initramfs the kernel wants a root device, and waits for it.
    hang = ("rdinit=/nowhere", "root=/dev/nowhere", "rootwait")
    append = [word for option in hang for word in ("--append", option)]
    done = _run(host, *kernel, "--timeout-scale", "2", *append, *_FEW)
    assert done.status == 3
    assert done.kernel["accel"] == "kvm"
    assert _boots(done) == [("cold", "no word from the guest in 120 s")] * 2
    assert done.memory == known.memory
    consoles = [text for name, text in done.files.items() if "/console-" in name]
    assert len(consoles) == 2
    for console in consoles:
        assert "Waiting for root device /dev/nowhere" in console
        assert "sysrq: Show Blocked State" in console
