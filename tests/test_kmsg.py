# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log and taint, as the agent reads them."""

import os
from pathlib import Path

import pytest

from harness.guest import kmsg


class TestKernelLog:
    RECORDS = (
        b"6,1,0,-;Linux version 7.3.4\n SUBSYSTEM=x\n",
        b"4,2,10,-;WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90\n",
        b"14,3,20,-;nsconform: start a\n",
        b"30,4,30,-;BUG: a daemon says so\n",
        b"6,5,40,-;\xff;semicolon\n",
    )

    def read(self) -> list[str]:
        """The messages of RECORDS, one record a read(2) as /dev/kmsg has it."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)
        for record in self.RECORDS:
            os.write(writer, record)
        log = kmsg.KernelLog.__new__(kmsg.KernelLog)
        log._reader = reader
        try:
            return log.new_lines()
        finally:
            os.close(reader)
            os.close(writer)

    def test_lines_are_those_of_the_kernel_itself(self) -> None:
        assert self.read() == [
            "Linux version 7.3.4",
            "WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90",
            "\ufffd;semicolon",
        ]

    def test_matching(self) -> None:
        assert kmsg.matching(self.read(), "WARNING: |nothing") == [
            "WARNING: kernel/nscommon.c:223 at __ns_ref_active_put+0x7e/0x90"
        ]

    def test_taint(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "tainted").write_text("512\n")
        monkeypatch.setattr("harness.guest.kmsg._TAINT", str(tmp_path / "tainted"))
        assert kmsg.taint() == 512
