# SPDX-License-Identifier: GPL-2.0-only
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from harness.catalogue import Behaviour, Fix
from harness.reports.junit import junit
from harness.reports.ktap import ktap, ktap_run
from harness.reports.matrix import render
from harness.reports.text import counts, excerpt, tally, why
from harness.results import KernelResult, Outcome, RunResult, TestResult, from_json

RUN = from_json((Path(__file__).parent / "data" / "run.json").read_text())
OLD, BAD, INCOMPLETE, DEAD = RUN.kernels

NASTY = TestResult(
    "s/test_a.py::test_b[#1\n\x07]",
    "s",
    ("B-1",),
    Outcome.FAIL,
    attempts=1,
    boot=1,
    reason="\x1b[31mred]]> & \udcff\nsecond line",
    detail="ok 1 - planted\nnot ok 2\r\n# ok 3 planted\n\x00\ufffe <é>\u2028ok 4 planted",
    observations={"list": [1, "\x07"]},
)
KNOWN = TestResult("s/test_a.py::test_d", "s", (), Outcome.FAIL, known_issue="two\nok 5 planted")
SKIPPED = TestResult("s/test_a.py::test_c", "s", (), Outcome.SKIP, reason="needs x #1")


def run_of(*tests: TestResult) -> RunResult:
    return replace(RUN, kernels=(KernelResult("/boot/bz#\nok 9", tests=tests),))


class TestText:
    def test_every_result_is_counted_once_and_what_counts_comes_last(self) -> None:
        assert counts(BAD.tests) == (
            "1 pass, 1 known, 1 flaky, 1 ERROR, 1 SPLAT, 1 FAIL, 1 TIMEOUT, 1 CRASH"
        )
        assert sum(tally(BAD.tests).values()) == len(BAD.tests)
        assert counts(()) == "no tests"

    def test_excerpt_of_a_traceback_is_its_errors_and_the_place(self) -> None:
        assert excerpt(BAD.tests[1].detail) == [
            "assert 42 in [40, 41]",
            "listns/test_pagination.py:141: AssertionError",
        ]

    def test_excerpt_of_a_log_is_its_beginning_and_end(self) -> None:
        lines = excerpt("\n".join(f"line {n}" for n in range(100)))
        assert lines[:2] == ["line 0", "line 1"]
        assert lines[4] == "... 92 lines left out ..."
        assert (lines[-1], len(lines)) == ("line 99", 9)

    def test_excerpt_cuts_long_lines(self) -> None:
        (line,) = excerpt("x" * 10_000)
        assert len(line) == 240
        assert line.endswith("x...")

    def test_why_is_one_line_even_without_a_reason(self) -> None:
        assert why(NASTY) == "#x1B[31mred]]> & #xDCFF"
        assert why(replace(NASTY, reason="", detail="E   assert 1\n")) == "assert 1"
        assert why(replace(NASTY, reason="", detail="")) == ""


@dataclass
class Line:
    """A result line of KTAP and the block before it."""

    ok: bool
    name: str
    directive: str
    children: "list[Line]"


def parse_ktap(lines: list[str], indent: str = "") -> list[Line]:
    """Read one block of strict KTAP version 1: version, plan, and as many results as planned."""
    assert lines.pop(0) == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines.pop(0))
    assert plan
    results: list[Line] = []
    while len(results) < int(plan[1]):
        children: list[Line] = []
        while not lines[0].startswith((f"{indent}ok ", f"{indent}not ok ")):
            if lines[0] == f"{indent}  KTAP version 1":
                children = parse_ktap(lines, indent + "  ")
            else:
                assert re.match(rf"{indent}#( |$)", lines.pop(0))
        results.append(parse_result(lines.pop(0)[len(indent) :], len(results) + 1, children))
    while lines and lines[0].startswith(f"{indent}#"):
        lines.pop(0)
    return results


def parse_result(line: str, number: int, children: list[Line]) -> Line:
    match = re.fullmatch(r"(ok|not ok) (\d+) ([^#]*?)(?: # (\S+)(?: .*)?)?", line)
    assert match, line
    assert int(match[2]) == number
    result = Line(match[1] == "ok", match[3], match[4] or "", children)
    assert result.directive in {"", "SKIP", "XFAIL", "TIMEOUT", "ERROR"}
    assert not (result.ok and result.directive in {"TIMEOUT", "ERROR"})
    assert not (result.ok and not all(child.ok for child in children))
    return result


def ktap_tree(text: str) -> list[Line]:
    lines = text.removesuffix("\n").split("\n")
    tree = parse_ktap(lines)
    assert lines == []
    return tree


class TestKtap:
    def test_suites_hold_the_tests(self) -> None:
        listns, ids = ktap_tree(ktap(BAD))
        assert (listns.name, listns.ok, len(listns.children)) == ("listns", False, 5)
        assert (ids.name, ids.ok, len(ids.children)) == ("ids", False, 3)
        assert listns.children[0].name == "listns/test_arguments.py::test_empty_type_lists_all"

    def test_outcomes(self) -> None:
        tests = [test for suite in ktap_tree(ktap(BAD)) for test in suite.children]
        assert [(test.ok, test.directive) for test in tests] == [
            (True, ""),  # pass
            (False, ""),  # fail
            (False, ""),  # splat
            (True, ""),  # flaky
            (False, "ERROR"),  # crash
            (False, "TIMEOUT"),
            (False, "ERROR"),
            (True, "XFAIL"),  # known
        ]

    def test_suite_of_skipped_tests_is_skipped(self) -> None:
        listns, ids = ktap_tree(ktap(OLD))
        assert (listns.ok, listns.directive) == (True, "SKIP")
        assert {test.directive for test in listns.children} == {"SKIP"}
        assert (ids.ok, ids.directive) == (True, "")

    def test_what_did_not_run_is_not_ok(self) -> None:
        suites = ktap_tree(ktap(DEAD))
        assert not any(test.ok for suite in suites for test in suite.children)
        assert {test.directive for suite in suites for test in suite.children} == {"ERROR"}

    def test_run_holds_the_kernels(self) -> None:
        kernels = ktap_tree(ktap_run(RUN))
        assert [(kernel.name, kernel.ok) for kernel in kernels] == [
            ("debian:6.12.95", True),
            ("debian:7.2.12", False),
            ("debian:7.3.4", False),
            ("debian:7.4-rc1", False),
        ]
        assert [suite.name for suite in kernels[1].children] == ["listns", "ids"]

    def test_kernel_without_tests_is_not_ok(self) -> None:
        assert ktap_tree(ktap(KernelResult("debian:6.1"))) == []
        (kernel,) = ktap_tree(ktap_run(run_of()))
        assert not kernel.ok

    def test_nothing_in_a_result_breaks_the_form(self) -> None:
        text = ktap_run(run_of(NASTY, SKIPPED, KNOWN))
        ((suite,),) = (kernel.children for kernel in ktap_tree(text))
        assert [test.name for test in suite.children] == [
            "s/test_a.py::test_b[%231 %23x07]",
            "s/test_a.py::test_c",
            "s/test_a.py::test_d",
        ]
        assert not re.search("[\x00-\x09\x0b-\x1f]", text)
        assert not re.search(r"^ *#? *(not )?ok \d+( -)? planted", text, re.MULTILINE)

    def test_failure_brings_its_detail(self) -> None:
        assert "    # | E       assert 42 in [40, 41]\n" in ktap_run(RUN)


@pytest.fixture(scope="module")
def root() -> ElementTree.Element:
    return ElementTree.fromstring(junit(RUN))  # noqa: S314 (we wrote it)


class TestJunit:
    def test_one_suite_for_every_kernel_and_suite(self, root: ElementTree.Element) -> None:
        names = [suite.get("name") for suite in root.findall("testsuite")]
        assert names == [
            f"{kernel.spec}.{suite}" for kernel in RUN.kernels for suite in ("listns", "ids")
        ]

    def test_class_names_are_kernel_and_suite(self, root: ElementTree.Element) -> None:
        for suite in root.findall("testsuite"):
            assert {case.get("classname") for case in suite.findall("testcase")} == {
                suite.get("name")
            }

    def test_outcomes(self, root: ElementTree.Element) -> None:
        elements = [
            next((e.tag for e in case if e.tag != "system-out"), "")
            for suite in root.findall("testsuite")[2:4]
            for case in suite.findall("testcase")
        ]
        assert elements == [
            "",  # pass
            "failure",
            "failure",  # splat
            "flakyFailure",
            "error",  # crash
            "error",  # timeout
            "error",
            "skipped",  # known
        ]

    def test_what_did_not_run_is_an_error(self, root: ElementTree.Element) -> None:
        suites = root.findall("testsuite")[-2:]
        assert len([error for suite in suites for error in suite.iter("error")]) == 8

    def test_totals_add_up(self, root: ElementTree.Element) -> None:
        suites = root.findall("testsuite")
        tags = {"failures": "failure", "errors": "error", "skipped": "skipped", "tests": "testcase"}
        for attribute, tag in tags.items():
            for suite in suites:
                assert int(suite.attrib[attribute]) == len(list(suite.iter(tag)))
            total = sum(int(suite.attrib[attribute]) for suite in suites)
            assert int(root.attrib[attribute]) == total

    def test_failure_has_message_type_and_detail(self, root: ElementTree.Element) -> None:
        failure = root.find("testsuite[@name='debian:7.2.12.listns']//failure")
        assert failure is not None
        assert failure.attrib == {"type": "fail", "message": "assert 42 in [40, 41]"}
        assert "E       assert 42 in [40, 41]" in (failure.text or "")

    def test_properties_tell_the_kernel(self, root: ElementTree.Element) -> None:
        suite = root.find("testsuite[@name='debian:7.2.12.ids']")
        assert suite is not None
        properties = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
        assert properties["release"] == "7.2.12+deb13-cloud-amd64"
        assert properties["accel"] == "tcg"
        assert properties["boot 2"] == "kernel panic: Fatal exception in interrupt"
        assert suite.get("timestamp") == "2026-11-21T20:15:00"

    def test_system_out_has_behaviours_and_observations(self, root: ElementTree.Element) -> None:
        out = root.findtext("testsuite[@name='debian:7.2.12.listns']/testcase/system-out")
        assert out is not None
        assert "behaviours: LNS-ARG-01\n" in out
        assert 'errno_past_end: "ENOENT"' in out

    def test_nothing_in_a_result_breaks_the_form(self) -> None:
        text = junit(run_of(NASTY, SKIPPED, KNOWN))
        root = ElementTree.fromstring(text.encode())  # noqa: S314 (we wrote it)
        failure = root.find(".//failure")
        assert failure is not None
        assert failure.get("message") == "#x1B[31mred]]> & #xDCFF"
        assert "#x00#xFFFE <é>" in (failure.text or "")


FIX = Fix("nstree: go on behind the inactive", "8d76afe84fa2aaaa", ("7.3.4", "7.4-rc1"), "CVE-1-2")
CATALOGUE = {
    "LNS-PAG-13": Behaviour("LNS-PAG-13", "The walk goes on → later ones.", "", "6.19", FIX),
    "LNS-PAG-14": Behaviour("LNS-PAG-14", "The same under a filter.", "", "6.19", FIX),
    "LNS-FLT-04": Behaviour("LNS-FLT-04", "Initial ids come first.", "", "6.19"),
}


def rendered(run: RunResult, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="\n")
    render(run, CATALOGUE, Console(file=stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def squeezed(text: str) -> str:
    return re.sub(r"[\s─]+", " ", text)


class TestMatrix:
    TEXT = rendered(RUN)

    def test_fits_the_width(self) -> None:
        assert max(map(len, self.TEXT.splitlines())) <= 80

    def test_kernels_across_suites_down(self) -> None:
        table = squeezed(self.TEXT[self.TEXT.index("suite ") : self.TEXT.index("tcg, QEMU")])
        assert table.startswith("suite 6.12.95 7.2.12 7.3.4 7.4-rc1 listns 5 skip 1 pass 4 pass")
        assert table.endswith("verdict ok FAILED FAILED none ")

    def test_machine_and_why(self) -> None:
        line = "tcg, QEMU 10.0.2, 2 CPUs: KVM opened but the kernel did not boot in 10 s\n"
        assert self.TEXT.count(line) == 1

    def test_failures_come_worst_first(self) -> None:
        part = self.TEXT[self.TEXT.index("Failures (5)") : self.TEXT.index("Flaky (1)")]
        heads = re.findall(r"^[A-Z]+ ", part, re.MULTILINE)
        assert heads == ["CRASH ", "TIMEOUT ", "FAIL ", "SPLAT ", "ERROR "]

    def test_same_failure_on_several_kernels_is_told_once(self) -> None:
        head = "FAIL  listns/test_pagination.py::test_inactive_neighbour\n    on 7.2.12, 7.3.4\n"
        assert self.TEXT.count(head) == 1
        assert self.TEXT.count("assert 42 in [40, 41]") == 1

    def test_different_failures_of_a_test_are_told_apart(self) -> None:
        other = replace(INCOMPLETE.tests[1], reason="OSError", detail="E   OSError: EPERM")
        changed = replace(INCOMPLETE, tests=(other, *INCOMPLETE.tests[1:]))
        text = rendered(replace(RUN, kernels=(BAD, changed)))
        assert text.count("FAIL  listns/test_pagination.py::test_inactive_neighbour\n") == 2

    def test_behaviours_with_sentence_and_upstream_fix(self) -> None:
        assert (
            "LNS-PAG-13 The walk goes on → later ones. LNS-PAG-14 The same under a filter. fixed"
            ' upstream by 8d76afe84fa2 ("nstree: go on behind the inactive") in 7.3.4, 7.4-rc1;'
            " CVE-1-2 | assert 42 in [40, 41] | listns/test_pagination.py:141: AssertionError |"
            " console of boot 1: lines 130 to 131"
        ) in squeezed(self.TEXT)
        assert "LNS-PAG-06  (not in the catalogue)" in self.TEXT

    def test_fix_without_commit_or_cve(self) -> None:
        fix = Fix("go on", releases=("7.3.4",))
        catalogue = {"LNS-PAG-13": replace(CATALOGUE["LNS-PAG-13"], fix=fix)}
        stream = io.StringIO()
        render(RUN, catalogue, Console(file=stream, width=200))
        assert 'fixed upstream by "go on" in 7.3.4\n' in stream.getvalue().replace(" \n", "\n")

    def test_flaky_and_known_stand_apart(self) -> None:
        text = squeezed(self.TEXT[self.TEXT.index("Flaky (1)") :])
        assert "TIMEOUT listns/test_permissions.py::test_sibling[uts] on 7.2.12 in some of" in text
        assert "Known issues (1) FAIL ids/test_ids.py::test_reuse on 7.2.12 known: ids of" in text

    def test_skips_by_reason(self) -> None:
        assert "needs listns: the syscall returns ENOSYS (5 on 6.12.95)\n" in self.TEXT
        text = rendered(replace(RUN, kernels=(OLD, replace(OLD, spec="git:x", release="6.1"))))
        assert "needs NS_GET_ID: ENOTTY (1 each on 6.12.95, 6.1)\n" in text

    def test_not_run_and_no_verdict_with_the_reason(self) -> None:
        assert "the virtual machine vanished without a panic (1 on 7.3.4)\n" in self.TEXT
        assert "no reason given" not in self.TEXT
        assert (
            "No verdict (1) 7.4-rc1 kernel panic: VFS: Unable to mount root fs on unknown-block"
        ) in squeezed(self.TEXT)

    def test_totals(self) -> None:
        assert "4 kernels, 32 results: 9 pass, 6 skip, 9 NOTRUN, 1 known" in self.TEXT

    def test_one_is_singular(self) -> None:
        kernel = replace(OLD, tests=OLD.tests[:1], cpus=1)
        text = rendered(replace(RUN, kernels=(kernel,)))
        assert "1 kernel, 1 result: 1 skip\n" in text
        assert "QEMU 10.0.2, 1 CPU: KVM opened" in text

    def test_cut_off_run_says_so(self) -> None:
        assert f"run {RUN.id}, cut off\n" in rendered(replace(RUN, finished=""))
        assert f"run {RUN.id}\n" in self.TEXT

    def test_ascii_terminal(self) -> None:
        text = rendered(run_of(NASTY), encoding="ascii")
        assert "#x1B[31mred]]> & #xDCFF\n" in text
        assert r"<\xe9>" in text
        assert "The walk goes on -> later ones." in rendered(RUN, encoding="ascii")

    def test_markup_in_a_result_is_text(self) -> None:
        assert "test_sibling[uts]" in self.TEXT
        assert "[bold]x[/]" in rendered(run_of(replace(NASTY, reason="[bold]x[/]")))

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    @pytest.mark.parametrize(("number", "tables"), [(6, [6]), (14, [7, 7]), (15, [5, 5, 5])])
    def test_many_kernels_are_spread_over_tables(
        self, number: int, tables: list[int], encoding: str
    ) -> None:
        versions = [f"6.{n}.123" for n in range(number)]
        kernels = [replace(OLD, spec=f"debian:{v}", release=v) for v in versions]
        text = rendered(replace(RUN, kernels=tuple(kernels)), encoding=encoding)
        headings = re.findall(r"^suite( .*)$", text, re.MULTILINE)
        assert [version for line in headings for version in line.split()] == versions
        assert [len(line.split()) for line in headings] == tables
        assert max(map(len, text.splitlines())) <= 80

    def test_kernels_of_one_version_are_told_apart(self) -> None:
        specs = ["/home/u/a/bzImage", "/home/u/b/bzImage", "debian:7.3.4"]
        releases = ["7.3.4-mine", "7.3.4-mine", "7.3.4-cloud"]
        kernels = [
            replace(INCOMPLETE, spec=s, release=r) for s, r in zip(specs, releases, strict=True)
        ]
        run = replace(RUN, kernels=tuple(kernels))
        assert f"on {specs[0]}, {specs[1]}, 7.3.4-cloud " in squeezed(rendered(run, width=200))
        assert rendered(run, width=50).count("\nsuite ") == 1

    def test_narrow_terminal_and_empty_run(self) -> None:
        assert "verdict" in rendered(RUN, width=20)
        assert "0 kernels, 0 results: no tests" in rendered(replace(RUN, kernels=()))
