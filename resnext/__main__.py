"""`python -m resnext <command>`."""

from __future__ import annotations

import sys

from resnext.cli.command_line import Parser, run


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; without a command, print what there is.

    0: done; 1: what was looked at is wrong, or an export failed; 2: the command could not be carried out.
    """
    return run("resnext", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    from resnext.cli import (  # here: without torch it is one line as well
        evaluate,
        export,
        info,
        inspect,
        predict,
        weights,
    )

    parser = Parser(prog="resnext", description="The original ResNeXt for PyTorch.")
    commands = parser.add_subparsers(metavar="command")
    for command in (info, weights, inspect, predict, evaluate, export):
        command.add_command(commands)
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
