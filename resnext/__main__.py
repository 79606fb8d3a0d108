"""`python -m resnext <command>`."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from resnext.cache import find_cached, verify_cached
from resnext.checkpoint import WeightsError
from resnext.records import records


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 something is wrong with a cached file, 2 bad usage."""
    parser = _Parser(prog="python -m resnext", description="The original ResNeXt for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="command")
    weights = commands.add_parser("weights", help="what is published, and what of it is in the cache")
    weights.add_argument("--verify", action="store_true", help="check the full SHA-256 of every cached file")
    weights.set_defaults(run=_weights)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except (WeightsError, OSError) as error:
        print(f"resnext: {error}", file=sys.stderr)
        return 2
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"resnext: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for line in wrong:
        print(f"resnext: {line}; delete it, and it will be downloaded again", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
