# SPDX-License-Identifier: GPL-2.0-only
import threading
from pathlib import Path

import pytest

from vm import accel
from vm.accel import Accel, Acceleration, Choice
from vm.errors import BootError, ConfigError

WHY = "the kernel did not boot in 10 s"
FELL_BACK = Choice(Accel.TCG, f"KVM opened but {WHY}")


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that has been up since just now and has a /dev/kvm, which is returned."""
    monkeypatch.setenv("NSCONFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vm.accel._KVM", tmp_path / "kvm")
    monkeypatch.setattr("vm.accel._BOOT_ID", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("one\n")
    (tmp_path / "kvm").touch()
    return tmp_path / "kvm"


def auto(qemu: str = "10.0.2") -> Acceleration:
    return Acceleration("auto", qemu)


class TestDemand:
    def test_tcg(self) -> None:
        assert Acceleration("tcg", "10").current() == Choice(
            Accel.TCG, "asked for with --accel tcg"
        )

    def test_kvm(self) -> None:
        chosen = Acceleration("kvm", "10").current()
        assert chosen == Choice(Accel.KVM, "asked for with --accel kvm", provisional=True)

    def test_kvm_that_is_not_there(self, host: Path) -> None:
        host.unlink()
        with pytest.raises(BootError, match=r"kvm does not exist; use --accel auto or tcg$"):
            Acceleration("kvm", "10")

    def test_kvm_that_does_not_work_leaves_no_other_way(self) -> None:
        acceleration = Acceleration("kvm", "10")
        assert not acceleration.reject(Accel.KVM, WHY)
        assert acceleration.current().accel is Accel.KVM

    def test_demands_are_not_remembered(self) -> None:
        acceleration = Acceleration("kvm", "10")
        acceleration.confirm(Accel.KVM)
        assert not acceleration.current().provisional
        assert auto().current().provisional

    def test_unknown(self) -> None:
        with pytest.raises(ConfigError, match="--accel hvf is unknown: use auto, kvm or tcg"):
            Acceleration("hvf", "10")


class TestAuto:
    def test_kvm_is_to_be_tried(self) -> None:
        assert auto().current() == Choice(Accel.KVM, "KVM works on this host", provisional=True)

    def test_no_kvm(self, host: Path) -> None:
        host.unlink()
        assert auto().current() == Choice(Accel.TCG, f"{host} does not exist")

    def test_kvm_that_cannot_be_opened(self, host: Path) -> None:
        host.unlink()
        host.mkdir()
        assert auto().current() == Choice(Accel.TCG, f"{host} cannot be opened: Is a directory")

    def test_confirmed(self) -> None:
        acceleration = auto()
        acceleration.confirm(Accel.KVM)
        works = Choice(Accel.KVM, "KVM works on this host")
        assert acceleration.current() == works
        assert auto().current() == works

    def test_rejected(self) -> None:
        acceleration = auto()
        assert acceleration.reject(Accel.KVM, WHY)
        assert acceleration.current() == FELL_BACK
        # So far it can be the kernel's fault as well.
        assert auto().current().provisional
        acceleration.confirm(Accel.TCG)
        assert auto().current() == FELL_BACK

    def test_kernel_that_comes_up_neither_way(self) -> None:
        acceleration = auto()
        acceleration.reject(Accel.KVM, WHY)
        assert acceleration.reject(Accel.TCG, "kernel panic")
        assert acceleration.current() == auto().current()
        acceleration.confirm(Accel.KVM)
        assert auto().current().accel is Accel.KVM

    def test_failure_after_a_success_is_not_kvms(self) -> None:
        acceleration = auto()
        acceleration.confirm(Accel.KVM)
        assert not acceleration.reject(Accel.KVM, "kernel panic")
        assert acceleration.current().accel is Accel.KVM

    def test_failure_of_tcg_brings_no_kvm_that_was_found_not_to_work(self) -> None:
        acceleration = auto()
        acceleration.reject(Accel.KVM, WHY)
        acceleration.confirm(Accel.TCG)
        assert not acceleration.reject(Accel.TCG, "kernel panic")
        assert acceleration.current() == FELL_BACK

    def test_word_of_a_guest_that_was_started_before_the_fall_back(self) -> None:
        acceleration = auto()
        acceleration.reject(Accel.KVM, WHY)
        acceleration.confirm(Accel.KVM)
        assert acceleration.current() == FELL_BACK

    def test_guests_in_several_threads(self) -> None:
        acceleration = auto()
        reject = (acceleration.reject, (Accel.KVM, WHY))
        threads = [threading.Thread(target=reject[0], args=reject[1]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert acceleration.current() == FELL_BACK


class TestMemory:
    def test_holds_until_the_host_boots_again(self, tmp_path: Path) -> None:
        auto().confirm(Accel.KVM)
        (tmp_path / "boot_id").write_text("two\n")
        assert auto().current().provisional

    def test_holds_for_that_qemu(self) -> None:
        auto("7.2.1").confirm(Accel.KVM)
        assert auto("10.0.2").current().provisional

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"host": "one qemu 10", "accel": "x"}'])
    def test_damaged(self, tmp_path: Path, text: str) -> None:
        auto("10").confirm(Accel.KVM)
        (tmp_path / "cache/accel.json").write_text(text)
        assert auto("10").current().provisional


class TestTrial:
    def test_is_between_that_of_an_ordinary_and_of_a_slow_host(self) -> None:
        assert 10 <= accel.trial().first_line <= 60

    def test_grows_with_the_slowness_of_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter([0.0, 0.06])
        monkeypatch.setattr("vm.accel.time.perf_counter", lambda: next(clock))
        limits = accel.trial()
        assert limits.first_line == pytest.approx(30)
        assert limits.ready == pytest.approx(60)
