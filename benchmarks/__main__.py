"""All benchmarks, or one: tables, and on demand every raw value as JSON and a chart.

    python -m benchmarks [load|conversion|preprocess|inference|size|all] [--json OUT] [--plot OUT.png] [--runs N]

The contenders of each comparison take turns in one run. What is not installed (`benchmarks/requirements.txt`) or not to
be had here gets a line that says so. Each benchmark is also a script of its own, with options of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, machine, parser
from benchmarks.result import Result
from resnext.weights.atomic import replacing

BENCHMARKS = ("load", "conversion", "preprocess", "inference", "size")


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status: 0, or 1 where contenders that do the same work give different results."""
    command = parser(__doc__)
    command.prog = "python -m benchmarks"
    command.add_argument("benchmark", nargs="?", choices=(*BENCHMARKS, "all"), default="all", help="default: all")
    command.add_argument("--json", type=Path, metavar="OUT", help="write raw values, medians and quartiles")
    command.add_argument("--plot", type=Path, metavar="OUT.png", help="draw a chart; needs matplotlib")
    options = command.parse_args(arguments)
    _check(command, options.json, options.plot)
    names = BENCHMARKS if options.benchmark == "all" else (options.benchmark,)
    here = machine(_packages())
    print(here)
    results: list[Result] = []
    for name in names:
        print(f"\n== {name}\n", flush=True)
        results += importlib.import_module(f"benchmarks.{name}").run(options.runs)
        if options.json:  # after each, so that one that fails takes nothing with it
            content = {"machine": here, "runs": options.runs, "results": [result.as_dict() for result in results]}
            with replacing(options.json) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        importlib.import_module("benchmarks.plot").save(results, options.plot, here)
    return 1 if any(result.problems for result in results) else 0


def _check(command: ArgumentParser, *paths: Path | None) -> None:
    """Refuse what cannot be written before anything is measured."""
    for path in filter(None, paths):
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            command.error(f"{path} cannot be written; expected a file in a folder that exists and may be written to")
    plot: Any = paths[-1]
    if plot and plot.suffix.lower() != ".png":
        command.error(f"argument --plot: expected a name that ends in .png, got {plot}")
    if plot and importlib.util.find_spec("matplotlib") is None:
        command.error("argument --plot: needs matplotlib: pip install matplotlib")


def _packages() -> list[str]:
    """Whose versions are shown: what is compared."""
    text = (ROOT / "benchmarks" / "requirements.txt").read_text(encoding="utf-8")
    peers = re.findall(r"^([\w-]+)==", text, re.MULTILINE)
    return ["torch", "torchvision", *(name for name in peers if name != "matplotlib")]


if __name__ == "__main__":
    sys.exit(main())
