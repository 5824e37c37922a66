# SPDX-License-Identifier: GPL-2.0-only
"""How results are put into words: one vocabulary for all reports and the progress display."""

import re
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from harness.results import Outcome, TestResult

# XML 1.0 has no way to write these, and terminals act on them; lone surrogates cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Where pytest says that an exception came from, as in "listns/test_basic.py:41: AssertionError".
_PLACE = re.compile(r"\S+\.py:\d+: ")
# What the catalogue's sentences use beyond ASCII, for terminals that lack it.
_SPELLED = str.maketrans({"→": "->", "…": "...", "≠": "!=", "≤": "<=", "≥": ">="})
_DETAIL_LINES = 8
_DETAIL_WIDTH = 240


def word(result: TestResult) -> str:
    """The one word for a result: its outcome, or `flaky` or `known` where that is why it does
    not count as a failure; in capitals if somebody must look at it."""
    if result.failed or result.outcome is Outcome.NOTRUN:
        return result.outcome.upper()
    if result.flaky:
        return "flaky"
    return "known" if result.outcome.bad else result.outcome


def tally(results: Iterable[TestResult]) -> dict[str, int]:
    """How many results there are to each word, the good ones first."""
    ranked = sorted(results, key=lambda result: (result.failed, result.outcome.severity))
    return dict(Counter(word(result) for result in ranked))


def counts(results: Iterable[TestResult]) -> str:
    """The tally in one line, as in "140 pass, 2 skip, 1 FAIL"."""
    return ", ".join(f"{n} {name}" for name, n in tally(results).items()) or "no tests"


def number(many: int, noun: str) -> str:
    """As in "1 kernel", "2 kernels"."""
    return f"{many} {noun}" if many == 1 else f"{many} {noun}s"


def why(result: TestResult) -> str:
    """What is wrong with a result, in one line that is not too long."""
    lines = result.reason.splitlines() or excerpt(result.detail) or [""]
    return _shortened(printable(lines[0]))


def excerpt(detail: str) -> list[str]:
    """The lines of a detail that say most, at most nine of at most 240 characters.

    Of a traceback by pytest they are what it marks with E and the place; of anything else the
    beginning and the end.
    """
    lines = [line.rstrip() for line in printable(detail).splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if re.match(r"E\s", line)]
    places = [line for line in lines if _PLACE.match(line)]
    telling = [*errors, *places[-1:]] if errors else lines
    if len(telling) > _DETAIL_LINES:
        half = _DETAIL_LINES // 2
        left_out = f"... {len(telling) - 2 * half} lines left out ..."
        telling = [*telling[:half], left_out, *telling[-half:]]
    return [_shortened(line) for line in telling]


def _shortened(line: str) -> str:
    return line if len(line) <= _DETAIL_WIDTH else line[: _DETAIL_WIDTH - 3] + "..."


def printable(text: str) -> str:
    """The text with control characters spelled out, as #x1B, which is how pytest does it."""
    return _UNPRINTABLE.sub(lambda match: f"#x{ord(match[0]):02X}", text)


def on_terminal(text: str, console: Console, style: str = "") -> Text:
    """The text as it is, no markup in it, with what the console's encoding lacks escaped."""
    shown = printable(text)
    if console.options.ascii_only:
        shown = shown.translate(_SPELLED).encode("ascii", "backslashreplace").decode()
    return Text(shown, style)
