"""`python -m resnext <command>`."""

from __future__ import annotations

import sys

from resnext.cli import evaluate, export, info, predict, weights
from resnext.cli.command_line import Parser, run


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; without a command, print what there is.

    0: done; 1: something is wrong with what was looked at; 2: the command could not be run as given.
    """
    parser = Parser(prog="resnext", description="The original ResNeXt for PyTorch.")
    commands = parser.add_subparsers(metavar="command")
    info.add_command(commands)
    weights.add_command(commands)
    predict.add_command(commands)
    evaluate.add_command(commands)
    export.add_command(commands)
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    return run("resnext", lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
