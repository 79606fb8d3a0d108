"""What command lines share: parsing, errors as one line, exit statuses, tables, the options that name a checkpoint.

Imports nothing that takes time, so that a command that needs no torch does not wait for it.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from resnext.weights import printable

if TYPE_CHECKING:
    from resnext.model import ResNeXt

DEFAULT = "resnext50_32x4d_typeC"


class CommandError(ValueError):
    """What the user gave cannot be used. Says what was expected, what came and what to do; exit status 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(fail(self.prog.split()[0].removesuffix(".py"), f"{message} (see --help)"))


def whole_number(least: int) -> Callable[[str], int]:
    """A `type` for `add_argument`: a whole number from `least` up."""

    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() else least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} up, got {text}")
        return number

    return parse


def run(program: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status; whatever goes wrong in it is one line on stderr.

    The status is an error's own `exit_status` if it has one, else 2; it is 130 for Ctrl-C, and 1 where the reader of a
    pipe has left. What stdout cannot encode is printed as escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, program, warnings.showwarning)
            status = command()
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has left, as `head` does; Python would complain once more when it exits
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


def _show_warning(
    program: str, otherwise: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any
) -> None:
    """Ours as one line, without the place in the code; those of others as Python prints them."""
    if category.__module__.startswith("resnext."):
        warn(program, message)
    else:
        otherwise(message, category, *place)


def fail(program: str, problem: object, status: int = 2) -> int:
    """`warn`; returns the exit status."""
    warn(program, problem)
    return status


def warn(program: str, problem: object) -> None:
    """Print `program: problem` as one line on stderr."""
    if sys.stderr is not None:  # closed: print would take stdout instead
        print(f"{program}: {one_line(problem)}", file=sys.stderr)


def one_line(text: object) -> str:
    """Text for one line of a terminal: white space folded, what does not print escaped, the length limited."""
    return printable(" ".join(str(text).split()))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """`--arch NAME`, `--weights FILE` and `--ema`, for `find_checkpoint`."""
    parser.add_argument("--arch", metavar="NAME", help=f"a network of list_models(); default: {DEFAULT}")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights, a training checkpoint or another port's file, or its URL; default: the authors'",
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="of a training checkpoint: the moving average of the weights, or the weights themselves; default: the "
        "average where there is one, and a line says so",
    )


@dataclass(frozen=True)
class Checkpoint:
    """The weights that `--arch` and `--weights` name, as a file on this machine.

    `arch` is the network that the file must hold; None: whichever it holds. `published` says that they are the
    authors' weights, which `pretrained=True` loads; `ema` is that of `create`.
    """

    path: Path
    arch: str | None
    published: bool
    ema: bool | None = None

    @cached_property
    def sha256(self) -> str:
        """The file's SHA-256, in hex. Raises OSError."""
        from resnext.weights.download import sha256_of

        return sha256_of(self.path)

    def load(self) -> ResNeXt:
        """The network, for evaluation. Raises WeightsError for another file, CommandError without a classifier."""
        from resnext.zoo import create, from_checkpoint

        if self.arch is None:
            model = from_checkpoint(self.path, ema=self.ema)
        else:
            weights = None if self.published else self.path
            model = create(self.arch, pretrained=self.published, weights=weights, ema=self.ema)
        if model.num_classes == 0:
            raise CommandError(f"{self.path} has no classifier; expected a network with one: train one first")
        return model.eval()


def find_checkpoint(arch: str | None, weights: str | None, ema: bool | None = None) -> Checkpoint:
    """What `--arch` and `--weights` name, downloaded if necessary.

    Only `arch`: the authors' weights. Only `weights`: the network that the file holds. Both: the file, which must hold
    that network. Raises CommandError for an unknown name, WeightsError for weights that cannot be downloaded.
    """
    from resnext.weights.download import is_url
    from resnext.weights.pretrained import fetch, resolve_pretrained
    from resnext.zoo import get_architecture

    if weights is None:
        if ema is not None:
            raise CommandError("--ema chooses among the weights of a training checkpoint; give it with --weights")
        arch = arch or DEFAULT
    try:
        name = get_architecture(arch).name if arch else ""
    except ValueError as error:
        raise CommandError(f"argument --arch: {error}") from None
    if weights is None:
        return Checkpoint(resolve_pretrained(name), arch, published=True)
    return Checkpoint(fetch(weights) if is_url(weights) else Path(weights), arch, published=False, ema=ema)
