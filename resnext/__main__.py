"""`python -m resnext <command>`."""

from __future__ import annotations

import sys

from resnext.cli import evaluate, export, info, predict, weights
from resnext.cli.command_line import Parser, run


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 something is wrong with what was looked at, 2 bad usage."""
    parser = Parser(prog="resnext", description="The original ResNeXt for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="command")
    info.add_command(commands)
    weights.add_command(commands)
    predict.add_command(commands)
    evaluate.add_command(commands)
    export.add_command(commands)
    options = parser.parse_args(arguments)
    return run("resnext", lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
