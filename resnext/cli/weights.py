"""`python -m resnext weights`: what is published, and which of it is in the cache."""

from __future__ import annotations

import argparse
from typing import Any

from resnext.cli import inspect
from resnext.cli.command_line import table, warn
from resnext.weights.cache import find_cached, verify_cached
from resnext.weights.records import records


def add_command(commands: Any) -> None:
    """Add `weights` to the commands of `python -m resnext`."""
    parser = commands.add_parser("weights", help="what is published, and which of it is in the cache")
    parser.add_argument(
        "--verify", action="store_true", help="check the full SHA-256 of every cached file, and its tensors"
    )
    parser.set_defaults(run=_weights)
    inspect.add_command(parser.add_subparsers(metavar="inspect"))


def _weights(options: argparse.Namespace) -> int:
    rows = [("network", "parameters", "top-1 error", "licence", "hosted", "cached")]
    wrong: list[str] = []
    for name, record in records().items():
        path = find_cached(record, wrong)
        cached = path.name if path else "no"
        if path and options.verify:
            problem = verify_cached(record, path)
            cached += f" ({problem or 'verified'})"
            wrong += [f"{path}: {problem}"] if problem else []
        hosted = "yes" if record.hosted else f"no, built from {record.torch7.file} ({record.torch7.size})"
        rows.append((name, f"{record.parameters:,}", f"{record.top1_error} %", record.license, hosted, cached))
    print(table(rows))
    for problem in wrong:
        warn("resnext", f"{problem}; delete it, and it will be downloaded again")
    return 1 if wrong else 0
