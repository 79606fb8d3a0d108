"""`python -m resnext export`: a network as a file for another runtime, checked before it appears."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from resnext.cli.command_line import CommandError, Parser, add_model_options, load_model, table
from resnext.export.formats import FORMATS, OPSET, largest_error, write
from resnext.export.job import Job, Options, make_job
from resnext.export.provenance import find_weights
from resnext.inference.aoti import CompilerError
from resnext.inference.fold import allowed_error
from resnext.inference.optimize import PRECISIONS, TOLERANCE
from resnext.model import ResNeXt
from resnext.weights.atomic import replacing
from resnext.weights.messages import first_line


class MismatchError(RuntimeError):
    """What was written does not compute what the network does. Nothing is left of it."""


@dataclass(frozen=True)
class Report:
    """What was exported: the metadata in the file, and the largest relative error of its logits."""

    path: Path
    format: str
    metadata: dict[str, str]
    error: float


def add_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `export` to the commands of `python -m resnext`."""
    parser = commands.add_parser("export", help="a network as a file for another runtime, checked there")
    add_model_options(parser)
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to; pt2 and aoti: ….pt2")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32; onnx has no bf16")
    parser.add_argument(
        "--with-preprocess", action="store_true", help="takes uint8 images; the authors' preprocessing is in the file"
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="any number and size of images; torchscript always takes any"
    )
    parser.add_argument(
        "--image-size", type=_size, metavar="SIZE", help="pixels, or HEIGHTxWIDTH; default: as in training (with "
        "--with-preprocess: 256)"
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="N", help="number of images; default: 1")
    parser.set_defaults(run=_run)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected pixels (224) or HEIGHTxWIDTH (480x640), got {text}")
    return int(match[1]), int(match[2] or match[1])


def _run(options: argparse.Namespace) -> int:
    """The exit status: 0, or 1 for a file that does not compute what the network does."""
    try:
        wanted = Options(
            options.format,
            options.precision,
            options.with_preprocess,
            options.dynamic,
            options.image_size,
            options.batch_size,
        )
        _check_format(wanted.format)
        weights = find_weights(options.arch, options.weights)
        _check_path(options.out, wanted.format, weights)
        job = make_job(load_model(options.arch, str(weights)), wanted, weights)
    except (ValueError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from None
    try:
        report = _write(job, options.out)
    except CompilerError as error:
        raise CommandError(str(error)) from None
    except MismatchError as error:
        print(f"resnext: {error}", file=sys.stderr)
        return 1
    print(table(_rows(report)))
    return 0


def export(
    model: ResNeXt,
    path: str | os.PathLike[str],
    format: str,
    *,
    precision: str = "fp32",
    with_preprocess: bool = False,
    dynamic: bool = False,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> Report:
    """Write a network to a file for another runtime, load it there, compare, and only then give it its name.

    The input `images` is float32 (N, C, H, W) as `model` takes it, or uint8 (N, 3, H, W) `with_preprocess`; the output
    `logits` is float32 (N, num_classes), in every precision. The model stays as it is, and is exported for evaluation;
    its hooks do not run.

    Args:
        model: any `ResNeXt` with logits, of any form; all but safetensors hold it as form C, batch norms folded.
        path: the file, in a folder that exists; what lies there is replaced. "pt2" and "aoti" must end in `.pt2`.
        format: "onnx" (opset 20), "safetensors" (the weights alone), "torchscript", "pt2" (torch.export), or "aoti"
            (compiled for this processor; `resnext.aoti.load` reads it and checks what it is given).
        precision: "fp32", "bf16" (not for ONNX, whose runtime has no such convolution for the CPU) or "fp16".
        with_preprocess: put the authors' preprocessing (`resnext.preprocess`) in front.
        dynamic: leave N, H and W open. TorchScript always does.
        image_size: H and W, or one number for both; default: what the network was trained for, or 256 where its
            preprocessing makes that of it. With `dynamic` it is an example.
        batch_size: N; default: 1. With `dynamic` it is an example.
        weights: the file that the weights came from, for the metadata: its name and digest, and their licence.

    Raises TypeError for another module than a ResNeXt with logits; ValueError for arguments that contradict each other
    and for a network that cannot be folded (`resnext.fold`); ModuleNotFoundError for a package that the format needs;
    MismatchError where the logits are further off than `resnext.optimize` allows; `aoti.CompilerError`; OSError.
    Whenever it raises, what lay at `path` still does.
    """
    path, weights = Path(path), None if weights is None else Path(weights)
    options = Options(format, precision, with_preprocess, dynamic, image_size, batch_size)
    _check_format(format)
    _check_path(path, format, weights)
    with torch.autocast("cpu", enabled=False):  # it would go into the graph, and into what that is held against
        return _write(make_job(model, options, weights), path)


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    packages = FORMATS[format].packages
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"--format {format} needs {', '.join(missing)}, not installed: pip install {' '.join(packages)}"
        )


def _check_path(path: Path, format: str, weights: Path | None) -> None:
    suffix = FORMATS[format].suffix
    if suffix is not None and path.suffix != suffix:
        raise ValueError(f"--format {format}: expected a name that ends in {suffix}, as torch does, got {path}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written; expected a file in a folder that exists and may be written to")
    if weights is not None and path.exists() and weights.exists() and path.samefile(weights):
        raise ValueError(f"{path} is the file with the weights; choose another name")


def _write(job: Job, path: Path) -> Report:
    """Write, check, and put in place."""
    format = job.options.format
    with replacing(path, FORMATS[format].suffix or "") as temporary:
        write(job, temporary)
        error = _check(job, temporary, path)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    return Report(path, format, dict(job.metadata), error)


def _check(job: Job, temporary: Path, path: Path) -> float:
    runtime, limit = FORMATS[job.options.format].runtime, TOLERANCE[job.options.precision]
    try:
        error = largest_error(job, temporary)
    except Exception as failure:  # each runtime has its own
        reason = first_line(failure)
        raise MismatchError(f"{path}: not written, for {runtime} does not take it: {reason}") from failure
    if not error <= limit:
        dtype = PRECISIONS[job.options.precision]
        limit = max(allowed_error(job.network, job.module.preprocess(x), dtype, limit) for x in job.images)
    if not error <= limit:
        raise MismatchError(
            f"{path}: not written, for the logits that {runtime} computes are off by {error:.1e} (relative); "
            f"expected at most {limit:.0e} in {job.options.precision}"
        )
    return error


def _rows(report: Report) -> list[tuple[str, str]]:
    """What the command says in the end."""
    data, runtime = report.metadata, FORMATS[report.format].runtime
    opset = f", opset {OPSET}" if report.format == "onnx" else ""
    rows = [
        ("file", f"{report.path} ({report.path.stat().st_size:,} bytes)"),
        ("format", f"{report.format}{opset}, {data['precision']}"),
        ("network", f"{data['architecture']}, form {data['form']}"),
    ]
    if "input_name" in data:
        rows += [
            ("input", f"{data['input_name']}: {data['input_dtype']}, {data['input_shape']}"),
            ("output", f"{data['output_name']}: float32, N x {data['num_classes']}"),
        ]
    return [
        *rows,
        ("weights", f"{data['source']}, SHA-256 {data['source_sha256']}"),
        ("licence", data["license"]),
        ("checked", f"by {runtime} {importlib.metadata.version(runtime)}: relative error {report.error:.1e}"),
    ]
