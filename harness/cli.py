# SPDX-License-Identifier: GPL-2.0-only
"""The command line: what the user typed, turned into calls, and errors into one line each."""

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness import cache_listing, catalogue, listing
from harness.collect import SUITES
from harness.exploration import Exploration
from harness.plan import Selection, select
from harness.progress import make_progress
from harness.reports.matrix import render
from harness.results import exit_status
from harness.run import Request, Settings, execute
from harness.shell import shell
from vm.errors import BootError, NsconformError
from vm.pruning import KINDS, Kind

EXIT_USAGE, EXIT_NO_VERDICT, EXIT_INTERRUPTED = 2, 3, 130

_KERNEL_HELP = (
    "a bzImage or vmlinuz file, a .deb file, `host` (the running kernel's image), or "
    "debian:VERSION, debian:SUITE, debian:newest (a package from this machine's apt mirror)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run nsconform and return its exit status: see `nsconform run --help`."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING)
    # A supervisor that ends us is to find no guest of ours running, and the results on disk.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return int(arguments.handler(arguments))
    except BootError as error:
        return _complain(error, EXIT_NO_VERDICT)
    except NsconformError as error:
        return _complain(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Print in this block: whoever reads it may have had enough, which changes no exit status."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # the second is what rich makes of the first
        # What is left must not raise once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(what: object, status: int) -> int:
    print(f"nsconform: {what}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsconform", description="Conformance suite for the Linux namespace API."
    )
    parser.add_argument("--debug", action="store_true", help="log what is done and how")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="boot kernels, run the suites, print the verdicts",
        epilog="Exit status: 0 all well; 1 a failure, splat, crash, timeout or broken test; "
        "2 a usage error; 3 no verdict; 130 interrupted."))  # fmt: skip
    _add_list(commands.add_parser("list", help="print the tests, or the behaviours they assert"))
    _add_kernels(commands.add_parser("kernels", help="print the kernels that can be fetched"))
    _add_shell(commands.add_parser("shell", help="give a prompt in a guest"))
    _add_cache(commands.add_parser("cache", help="print what the cache holds, or clear it"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", default=["debian:newest"],
                        help=_KERNEL_HELP + "; default: debian:newest")  # fmt: skip
    _add_selection(parser)
    _add_machine(parser)
    # fmt: off
    parser.add_argument("--long", action="store_true",
                        help="run model, races and stress too, which take minutes")
    parser.add_argument("--repeat", type=_at_least(1), default=1, metavar="N",
                        help="run every test N times, each time in a fresh boot")
    parser.add_argument("--retries", type=_at_least(0), default=1, metavar="N",
                        help="run a failure up to N more times in fresh boots (default 1)")
    parser.add_argument("--timeout-scale", type=_positive, default=1.0, metavar="X",
                        help="multiply deadlines by X, on top of the guest's measured speed")
    parser.add_argument("--race-seconds", type=_positive, metavar="S",
                        default=Exploration.race_seconds,
                        help="how long all races together may explore (default %(default).0f)")
    parser.add_argument("--model-seconds", type=_positive, metavar="S",
                        default=Exploration.model_seconds,
                        help="how long the model may be compared (default %(default).0f)")
    parser.add_argument("--seed", type=_at_least(0), default=0, metavar="N",
                        help="seed of what races and model choose by chance (default 0)")
    parser.add_argument("--no-snapshot", dest="snapshot", action="store_false",
                        help="boot every guest; neither save guests nor start from saved ones")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                        help="where run directories go (default %(default)s)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML to FILE")
    parser.add_argument("--ktap", type=Path, metavar="FILE", help="also write KTAP to FILE")
    # fmt: on
    parser.set_defaults(handler=_run)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    # fmt: off
    parser.add_argument("--suite", action="append", default=[], metavar="NAME",
                        help="run only this suite; can be given again")
    parser.add_argument("--behaviour", action="append", default=[], metavar="ID",
                        help="run only tests of this behaviour; can be given again")
    parser.add_argument("-k", dest="expression", default="", metavar="EXPR",
                        help="run only tests whose names match, as in pytest")
    parser.add_argument("--tests", type=Path, default=SUITES, metavar="DIR",
                        help="a folder of suites to run instead of our own")
    # fmt: on


def _add_machine(parser: argparse.ArgumentParser) -> None:
    # fmt: off
    parser.add_argument("--accel", default="auto", choices=["auto", "kvm", "tcg"],
                        help="how to execute guests; auto tries KVM by a boot (default)")
    parser.add_argument("--cpus", type=_at_least(1), default=2, metavar="N", help="default 2")
    parser.add_argument("--memory", default="1G", metavar="SIZE", help="memory (default 1G)")
    parser.add_argument("--append", action="append", default=[], metavar="ARG",
                        help="add ARG to the kernel's command line; can be given again")
    # fmt: on


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_selection(parser)
    parser.add_argument("--behaviours", action="store_true", help="print behaviours, not tests")
    parser.set_defaults(handler=_list, long=True)


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="only those of this suite")
    parser.set_defaults(handler=_kernels)


def _add_shell(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernel", metavar="KERNEL", help=_KERNEL_HELP)
    _add_machine(parser)
    parser.set_defaults(handler=_shell)


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(handler=_cache)
    commands = parser.add_subparsers(metavar="COMMAND")
    clear = commands.add_parser("clear", help="remove what no run uses")
    names = ", ".join(kind.name for kind in KINDS)
    again = ", ".join(kind.name for kind in KINDS if kind.limited)
    clear.add_argument("kinds", nargs="*", type=_kind, metavar="KIND",
                       help=f"one of {names}; default: {again}")  # fmt: skip
    clear.set_defaults(handler=_clear)


def _run(arguments: argparse.Namespace) -> int:
    exploration = Exploration(arguments.race_seconds, arguments.model_seconds, arguments.seed)
    settings = replace(_settings(arguments), exploration=exploration)
    request = Request(tuple(arguments.kernels), _selection(arguments), settings, arguments.results)
    with make_progress(sys.stderr) as progress:
        report = execute(request, progress)
    with _printing():
        render(report.run, catalogue.load(), Console())
        print(f"results: {report.directory}")
    listing.write_copies(report.run, {"junit": arguments.junit, "ktap": arguments.ktap})
    return EXIT_INTERRUPTED if report.interrupted else exit_status(report.run)


def _list(arguments: argparse.Namespace) -> int:
    selection = _selection(arguments)
    _, tests = select(selection)
    with _printing():
        if arguments.behaviours:
            listing.print_behaviours(
                tests, catalogue.load(), everything=selection == Selection(long=True)
            )
        else:
            listing.print_tests(tests)
    return 0


def _kernels(arguments: argparse.Namespace) -> int:
    with _printing():
        listing.print_kernels(arguments.suites)
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    return shell(arguments.kernel, _settings(arguments))


def _cache(_: argparse.Namespace) -> int:
    with _printing():
        cache_listing.print_cache(Console())
    return 0


def _clear(arguments: argparse.Namespace) -> int:
    with _printing():
        cache_listing.clear_kinds(arguments.kinds, Console())
    return 0


def _selection(arguments: argparse.Namespace) -> Selection:
    return Selection(
        tuple(arguments.suite),
        tuple(arguments.behaviour),
        arguments.expression,
        arguments.tests,
        arguments.long,
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    """Take every setting that the command has an option for; the others keep their defaults."""
    given = {
        name: value for name, value in vars(arguments).items() if name in Settings.__annotations__
    }
    return replace(Settings(), **given | {"append": tuple(arguments.append)})


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if kind.name == name:
            return kind
    names = ", ".join(kind.name for kind in KINDS)
    raise argparse.ArgumentTypeError(f"the cache holds no {name}; it holds {names}")


def _at_least(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {minimum} on")
        return int(text)

    return number


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
