"""`python -m resnext evaluate`: the error of a network on labelled images.

Under `torchrun` the processes share the work, and the report is the same to the last digit.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnext.architecture import Architecture
from resnext.cli.command_line import (
    CommandError,
    Parser,
    add_checkpoint_options,
    find_checkpoint,
    table,
    warn,
    whole_number,
)
from resnext.evaluation.counts import LEVEL, Counts, PartialCounts, make_report, per_class, write_report
from resnext.evaluation.data import Outputs, open_data
from resnext.evaluation.run import MAX_WORKERS, Processes, evaluate
from resnext.evaluation.transform import CROP, choose_transform

MAX_NAMED = 20  # unreadable images named on the terminal; the report has all


def add_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `evaluate` to the commands of `python -m resnext`."""
    parser = commands.add_parser(
        "evaluate",
        help="top-1 and top-5 error on labelled images",
        description="Top-1 and top-5 error on labelled images. Under torchrun the processes share the work.",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder with one folder of images for each class, or WebDataset shards: a folder of .tar files, "
        "shards-{000..003}.tar, a URL, pipe:COMMAND",
    )
    add_checkpoint_options(parser)
    parser.add_argument(
        "--preprocess",
        choices=("torch7", "torchvision"),
        default="torch7",
        help="torch7: as the authors did it (default); torchvision: bilinear, antialiased, as for its own networks",
    )
    parser.add_argument("--crop", type=int, metavar="PX", help=f"side of the crop: {CROP} (default) or 320")
    parser.add_argument(
        "--ten-crop", action="store_true", help="the mean over the corners, the centre and their mirror images"
    )
    parser.add_argument("--batch", type=whole_number(1), default=64, metavar="N", help="images in a batch; default: 64")
    parser.add_argument(
        "--workers",
        type=whole_number(0),
        metavar="N",
        help=f"processes that read images, for each that computes; default: one per core, at most {MAX_WORKERS}",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast to bfloat16")
    parser.add_argument(
        "--on-error", choices=("wrong", "exclude"), default="wrong", help="what an unreadable image counts as"
    )
    parser.add_argument("--output", metavar="FILE", help="the report (JSON); a table per class (.csv) goes beside it")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run of the same --output; refused if the network, the options or the data "
        "have changed (files are compared by name, size and time of last change)",
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    path = _report_path(options.output, options.resume)
    if importlib.util.find_spec("PIL") is None:
        raise CommandError("evaluate reads images with Pillow: pip install pillow")
    checkpoint = find_checkpoint(options.arch, options.weights, options.ema)
    model = checkpoint.load()
    transform, preprocessing = choose_transform(model, options.preprocess, options.crop, options.ten_crop)
    outputs = Outputs.of(model.data_set, model.num_classes, model.classes)
    data = open_data(options.data, outputs, options.batch)
    processes = Processes.from_environment()
    setup = {
        "network": f"{Architecture.of(model).name}_type{model.form}",
        "weights": {"file": checkpoint.path.name, "sha256": checkpoint.sha256},
        "data": {"path": data.path, "format": data.format, "sha256": data.digest},
        "preprocessing": preprocessing,
        "precision": options.precision,
        "batch": options.batch,
        "device": processes.device.type,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "pillow")},
        },
    }
    run = {key: value["sha256"] if key in ("weights", "data") else str(value) for key, value in setup.items()}
    partial = PartialCounts(path, run, data.modified)

    def finish(counts: Counts, timing: Mapping[str, Any]) -> None:
        report = make_report(counts, on_error=options.on_error, setup=setup)
        if path:
            write_report(path, report, per_class(counts, data.labels, outputs.names), timing)
        _show(report, timing)

    evaluate(
        model,
        data,
        transform,
        processes,
        partial,
        finish,
        precision=options.precision,
        workers=options.workers,
        resume=options.resume,
    )
    return 0


def _report_path(output: str | None, resume: bool) -> Path | None:
    if output is None:
        if resume:
            raise CommandError("--resume needs --output: the counts of the interrupted run lie beside the report")
        return None
    path = Path(output)
    if path.suffix == ".csv":
        raise CommandError(f"--output {output}: that is where the table per class goes; give the report's name (.json)")
    if path.is_dir() or not path.parent.is_dir():
        raise CommandError(f"--output {output}: expected a file in a folder that exists")
    return path


def _show(report: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
    interval, unreadable = report["confidence_interval"], report["unreadable"]
    rows = [("network", report["network"]), ("images", f"{report['images']:,}")]
    for name, key in (("top-1 error", "top1_error"), ("top-5 error", "top5_error")):
        low, high = interval[key]
        rows.append((name, f"{report[key]:.2f} %  ({LEVEL:.0%}: {low:.2f} to {high:.2f}, Wilson)"))
    if report["reported_top1_error"] is not None:
        rows.append(("reported", f"{report['reported_top1_error']} % top-1 by the authors, on ImageNet validation"))
    if unreadable["images"]:
        rows.append(("unreadable", f"{len(unreadable['images']):,}, counted as {unreadable['counted_as']}"))
    print(table([*rows, ("speed", f"{timing['images_per_second']:.1f} images/s")]))
    for image in unreadable["images"][:MAX_NAMED]:
        warn("resnext", f"unreadable: {image['image']}: {image['reason']}")
    if len(unreadable["images"]) > MAX_NAMED:
        warn("resnext", f"{len(unreadable['images']) - MAX_NAMED} more are unreadable; --output names all")
