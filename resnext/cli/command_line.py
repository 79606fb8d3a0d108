"""What the commands of `python -m resnext` share: errors in one line, and the options that name a network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from resnext.model import ResNeXt
from resnext.zoo import create, from_checkpoint, get_architecture

DEFAULT = "resnext50_32x4d_typeC"


class CommandError(ValueError):
    """What the user gave cannot be used. Says what was expected, what came and what to do; exit status 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr."""

    def error(self, message: str) -> NoReturn:
        print(f"resnext: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--arch NAME` and `--weights FILE`, for `load_model`."""
    parser.add_argument("--arch", metavar="NAME", help=f"a network of list_models(); default: {DEFAULT}")
    parser.add_argument(
        "--weights", metavar="FILE", help=".pth, .safetensors or Torch7 .t7 file, or its URL; default: the authors'"
    )


def load_model(arch: str | None, weights: str | None) -> ResNeXt:
    """The network that the two options name, for evaluation.

    `arch` alone: with the authors' weights. `weights` alone: the network that the file holds. Both: the file, which
    must hold that network. Raises CommandError for an unknown name, WeightsError for weights that cannot be had.
    """
    if arch is None and weights is not None:
        return from_checkpoint(weights).eval()
    arch = arch or DEFAULT
    try:
        get_architecture(arch)
    except ValueError as error:
        raise CommandError(f"argument --arch: {error}") from None
    return create(arch, pretrained=weights is None, weights=weights).eval()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
