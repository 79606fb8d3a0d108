"""What command lines share: errors in one line, exit statuses, tables, and the options that name a network.

Imports nothing that takes time, so that a command that needs no torch does not wait for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from resnext.model import ResNeXt

DEFAULT = "resnext50_32x4d_typeC"
_LONGEST = 2000  # characters of an error message: names in a damaged file can be as long as the file


class CommandError(ValueError):
    """What the user gave cannot be used. Says what was expected, what came and what to do; exit status 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(fail(self.prog.split()[0].removesuffix(".py"), f"{message} (see --help)"))


def run(program: str, command: Callable[[], int]) -> int:
    """The exit status of `command`; whatever goes wrong in it is one line on stderr.

    An error's own `exit_status` counts where it has one, else 2; 130 for Ctrl-C, 1 where the reader of a pipe has left.
    """
    try:
        status = command()
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except BrokenPipeError:  # whoever was reading has left, as `head` does; Python would say so once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return fail(program, "interrupted", 130)
    except MemoryError:
        return fail(program, "not enough memory")
    except ImportError as error:
        return fail(program, f"{error}; install what is missing with pip")
    except OSError as error:
        return fail(program, f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error)
    except (ValueError, RuntimeError) as error:  # T7Error and CommandError are the former, WeightsError the latter
        return fail(program, error, getattr(error, "exit_status", 2))
    return status


def fail(program: str, problem: object, status: int = 2) -> int:
    """Print `program: problem` as one line on stderr; returns the exit status."""
    print(f"{program}: {one_line(problem)}", file=sys.stderr)
    return status


def one_line(text: object) -> str:
    """Text for one line of a terminal: white space folded, what does not print escaped, the length limited."""
    words = " ".join(str(text).split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--arch NAME` and `--weights FILE`, for `find_checkpoint`."""
    parser.add_argument("--arch", metavar="NAME", help=f"a network of list_models(); default: {DEFAULT}")
    parser.add_argument(
        "--weights", metavar="FILE", help=".pth, .safetensors or Torch7 .t7 file, or its URL; default: the authors'"
    )


@dataclass(frozen=True)
class Checkpoint:
    """The weights that `--arch` and `--weights` name, as a file on this machine.

    `arch` is the network that the file must hold; None: whichever it holds. `published` says that they are the
    authors' weights, as `pretrained=True` has them.
    """

    path: Path
    arch: str | None
    published: bool

    @cached_property
    def sha256(self) -> str:
        """The file's SHA-256, in hex. Raises OSError."""
        from resnext.weights.download import sha256_of

        return sha256_of(self.path)

    def load(self) -> ResNeXt:
        """The network, for evaluation. Raises WeightsError for a file that does not hold it."""
        from resnext.zoo import create, from_checkpoint

        if self.arch is None:
            return from_checkpoint(self.path).eval()
        weights = None if self.published else self.path
        return create(self.arch, pretrained=self.published, weights=weights).eval()


def find_checkpoint(arch: str | None, weights: str | None) -> Checkpoint:
    """What `--arch` and `--weights` name, downloaded if necessary.

    Only `arch`: the authors' weights. Only `weights`: the network that the file holds. Both: the file, which must hold
    that network. Raises CommandError for an unknown name, WeightsError for weights that cannot be downloaded.
    """
    from resnext.weights.pretrained import fetch, resolve_pretrained
    from resnext.zoo import get_architecture

    if weights is None:
        arch = arch or DEFAULT
    try:
        name = get_architecture(arch).name if arch else None
    except ValueError as error:
        raise CommandError(f"argument --arch: {error}") from None
    if weights is None:
        return Checkpoint(resolve_pretrained(str(name)), arch, published=True)
    return Checkpoint(fetch(weights) if "://" in weights else Path(weights), arch, published=False)


def load_model(arch: str | None, weights: str | None) -> ResNeXt:
    """`find_checkpoint(arch, weights).load()`."""
    return find_checkpoint(arch, weights).load()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
