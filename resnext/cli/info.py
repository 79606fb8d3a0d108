"""`python -m resnext info [NAME]`: depth, parameters and multiply-adds of the networks."""

from __future__ import annotations

import argparse

from resnext.architecture import Architecture
from resnext.cli.command_line import CommandError, Parser, table
from resnext.weights.records import records
from resnext.zoo import ARCHITECTURES, get_architecture, parse_name


def add_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `info` to the command line."""
    parser = commands.add_parser("info", help="what the networks are: parameters, multiply-adds")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one network, in detail; default: all, a line each")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one network or all of them. Raises CommandError for an unknown name."""
    if options.name is None:
        heading = ("network", "depth", "parameters", "multiply-adds", "image", "top-1 error")
        print(table([heading, *(_row(name, architecture) for name, architecture in ARCHITECTURES.items())]))
        return 0
    try:
        architecture = get_architecture(options.name)
    except ValueError as error:
        raise CommandError(str(error)) from None
    print(table(_details(architecture, parse_name(options.name)[1])))
    return 0


def _row(name: str, architecture: Architecture) -> tuple[str, ...]:
    record = records().get(name)
    return (
        name,
        str(architecture.depth),
        _count(architecture.parameters, 1e6, "M"),
        _count(architecture.multiply_adds(), 1e9, "G"),
        f"{architecture.image_size} px",
        f"{record.top1_error} %" if record else "-",
    )


def _details(architecture: Architecture, form: str | None) -> list[tuple[str, str]]:
    record = records().get(architecture.name)
    size, multiply_adds = architecture.image_size, architecture.multiply_adds()
    rows = [
        ("network", architecture.name + (f"_type{form}" if form else "")),
        ("form", f"{form or 'C'} (A, B and C are the same function)"),
        ("bottlenecks", f"{' + '.join(map(str, architecture.layers))}, depth {architecture.depth}"),
        ("paths", f"cardinality {architecture.cardinality}, width {architecture.base_width} in the first stage"),
        ("classes", str(architecture.num_classes)),
        ("parameters", f"{architecture.parameters:,} ({_count(architecture.parameters, 1e6, 'M')})"),
        ("multiply-adds", f"{multiply_adds:,} ({_count(multiply_adds, 1e9, 'G')}) for {size} x {size} px"),
        ("preprocessing", f"{architecture.data_set}, the authors' (model.preprocess)"),
    ]
    if record is None:
        return [*rows, ("weights", "none were published")]
    return [
        *rows,
        ("weights", f"{record.torch7.file}, by the authors; pretrained=True"),
        ("licence", f"{record.license} ({record.license_url})"),
        ("top-1 error", f"{record.top1_error} %, reported by the authors: ImageNet validation, single 224 px crop"),
    ]


def _count(value: int, unit: float, letter: str) -> str:
    return f"{value / unit:.1f} {letter}"
