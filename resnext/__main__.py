"""`python -m resnext <command>`."""

from __future__ import annotations

import argparse
import sys

from resnext.cli import evaluate, export, info, predict
from resnext.cli.command_line import Parser, run, table
from resnext.weights.cache import find_cached, verify_cached
from resnext.weights.records import records


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 something is wrong with what was looked at, 2 bad usage."""
    parser = Parser(prog="resnext", description="The original ResNeXt for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="command")
    info.add_command(commands)
    weights = commands.add_parser("weights", help="what is published, and what of it is in the cache")
    weights.add_argument("--verify", action="store_true", help="check the full SHA-256 of every cached file")
    weights.set_defaults(run=_weights)
    predict.add_command(commands)
    evaluate.add_command(commands)
    export.add_command(commands)
    options = parser.parse_args(arguments)
    return run("resnext", lambda: options.run(options))


def _weights(options: argparse.Namespace) -> int:
    rows = [("network", "parameters", "top-1 error", "licence", "hosted", "cached")]
    wrong: list[str] = []
    for name, record in records().items():
        problems: list[str] = []
        path = find_cached(record, problems)
        cached = path.name if path else "no"
        wrong += problems
        if path and options.verify:
            problem = verify_cached(record, path)
            cached += f" ({problem or 'verified'})"
            wrong += [f"{path}: {problem}"] if problem else []
        hosted = "yes" if record.hosted else f"no, built from {record.torch7.file} ({record.torch7.size})"
        rows.append((name, f"{record.parameters:,}", f"{record.top1_error} %", record.license, hosted, cached))
    print(table(rows))
    for line in wrong:
        print(f"resnext: {line}; delete it, and it will be downloaded again", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
