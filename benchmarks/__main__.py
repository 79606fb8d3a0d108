"""Benchmarks: tables, and on request all raw values as JSON and a chart for each subject.

    python -m benchmarks load [FILE.pth] | conversion [FILE.t7] | preprocess | size | all
    python -m benchmarks inference [--batch N ...] [--precision fp32|bf16 ...]
    python -m benchmarks draw RESULTS.json --plot FOLDER

The contenders of each comparison take turns in one run. A contender that is not installed (see
`benchmarks/requirements.txt`) or does not work here gets a line that says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import Result, machine
from resnext.cli.command_line import CommandError, Parser, run, whole_number
from resnext.weights.atomic import replacing

SUBJECTS = ("load", "conversion", "preprocess", "inference", "size")


def measure(subject: str, options: argparse.Namespace) -> list[Result]:
    """Run one benchmark, which prints its tables."""
    results: list[Result] = importlib.import_module(f"benchmarks.{subject}").run(options)
    return results


def main(
    arguments: list[str] | None = None,
    measure: Callable[[str, argparse.Namespace], Sequence[Result]] = measure,
) -> int:
    """Run; returns the exit status: 0; 1 if contenders that do the same work give different results; 2 for an error."""
    options = _parser().parse_args(arguments)
    return run("benchmarks", lambda: _run(options, measure))


def _parser() -> Parser:
    common = Parser(add_help=False)
    common.add_argument(
        "--runs", type=whole_number(1), default=9, metavar="N", help="runs of each contender; default: 9"
    )
    common.add_argument("--json", type=Path, metavar="OUT", help="write raw values, medians and quartiles")
    common.add_argument("--plot", type=Path, metavar="FOLDER", help="draw a chart for each subject; needs matplotlib")
    common.set_defaults(file=None, batch=[1, 16], precision=["fp32", "bf16"])
    parser = Parser("python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest="subject", required=True)
    commands = {name: subjects.add_parser(name, parents=[common]) for name in (*SUBJECTS, "all", "draw")}
    commands["load"].add_argument("file", nargs="?", type=Path, help=".pth; default: one with random weights")
    commands["conversion"].add_argument("file", nargs="?", type=Path, help=".t7; default: the sample in the repository")
    commands["draw"].add_argument("file", type=Path, help="a file that --json wrote")
    commands["inference"].add_argument("--batch", type=whole_number(1), nargs="+", metavar="N", help="default: 1 16")
    commands["inference"].add_argument("--precision", nargs="+", choices=("fp32", "bf16"), help="default: both")
    return parser


def _run(options: argparse.Namespace, measure: Callable[[str, argparse.Namespace], Sequence[Result]]) -> int:
    _check(options)
    if options.subject == "draw":
        here, results = _read(options.file)
    else:
        here, results = machine(), []
        print(here)
        for subject in SUBJECTS if options.subject == "all" else (options.subject,):
            print(f"\n== {subject}\n", flush=True)
            results += measure(subject, options)
            if options.json:  # after each, so that a later failure loses nothing
                content = {"machine": here, "runs": options.runs, "results": [result.as_dict() for result in results]}
                with replacing(options.json) as temporary:
                    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        importlib.import_module("benchmarks.plot").save(results, options.plot, here)
    problems = [problem for result in results for problem in result.problems]
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


def _read(path: Path) -> tuple[str, list[Result]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["machine"], [Result.from_dict(result) for result in stored["results"]]
    except (ValueError, TypeError, KeyError):
        raise CommandError(f"{path}: expected a file that --json wrote") from None


def _check(options: argparse.Namespace) -> None:
    """Raise CommandError for a path that cannot be read or written, before anything is measured."""
    if options.file and not options.file.is_file():
        raise CommandError(f"{options.file}: no such file")
    if options.subject == "draw" and not options.plot:
        raise CommandError("draw needs --plot FOLDER")
    folder = options.json and options.json.parent
    if folder and (options.json.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
        raise CommandError(f"{options.json} cannot be written; expected a file in a folder that exists")
    if options.plot and not (options.plot.is_dir() and os.access(options.plot, os.W_OK)):
        raise CommandError(f"argument --plot: expected a folder that exists and may be written to, got {options.plot}")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise CommandError("argument --plot: needs matplotlib: pip install matplotlib")


if __name__ == "__main__":
    sys.exit(main())
