"""`python -m resnext export`: a network as a file for another runtime, checked before it appears."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from pathlib import Path
from typing import Any

from resnext.cli.command_line import CommandError, Parser, add_checkpoint_options, find_checkpoint, table
from resnext.export.formats import FORMATS, OPSET
from resnext.export.job import Options, Report, export
from resnext.inference.optimize import PRECISIONS
from resnext.weights.layouts import LAYOUTS


def add_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `export` to the commands of `python -m resnext`."""
    parser = commands.add_parser("export", help="a network as a file for another runtime, checked there")
    add_checkpoint_options(parser)
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="the file to write; pt2 and aoti: ….pt2"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32; onnx has no bf16")
    parser.add_argument(
        "--with-preprocess",
        action="store_true",
        help="put the authors' preprocessing into the file, which then takes uint8 images",
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="any number and size of images; torchscript always takes any"
    )
    parser.add_argument(
        "--image-size", type=_size, metavar="SIZE", help="pixels, or HEIGHTxWIDTH; default: as in training (with "
        "--with-preprocess: 256)"
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="N", help="number of images; default: 1")
    parser.add_argument(
        "--layout", choices=LAYOUTS, help="safetensors: whose names the weights get; default: torchvision's"
    )
    parser.set_defaults(run=_run)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected pixels (224) or HEIGHTxWIDTH (480x640), got {text}")
    return int(match[1]), int(match[2] or match[1])


def _run(options: argparse.Namespace) -> int:
    """The exit status: 0; an ExportError has 1."""
    names = ("precision", "with_preprocess", "dynamic", "image_size", "batch_size", "layout")
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    try:
        Options(options.out, options.format, **given)  # refused before anything is downloaded
    except ModuleNotFoundError as error:
        raise CommandError(str(error)) from None
    checkpoint = find_checkpoint(options.arch, options.weights, options.ema)
    report = export(checkpoint.load(), options.out, options.format, **given, weights=checkpoint.path)
    print(table(_rows(report)))
    return 0


def _rows(report: Report) -> list[tuple[str, str]]:
    """What the command prints at the end."""
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
