"""`python -m resnext evaluate`: the error of a network on labelled images, by one process or by many.

Under `torchrun` the same command shares the work, and the report is the same to the last digit: which images meet in a
batch does not depend on the processes, what they compute does not depend on their threads, and what they pass on are
whole numbers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from resnext.architecture import Architecture
from resnext.cli.command_line import (
    Checkpoint,
    CommandError,
    Parser,
    add_model_options,
    find_checkpoint,
    table,
)
from resnext.evaluation.batches import Batch, load
from resnext.evaluation.counts import Counts, PartialCounts
from resnext.evaluation.data import Folder, Tars, open_data
from resnext.evaluation.labels import Outputs
from resnext.evaluation.processes import Processes
from resnext.evaluation.report import LEVEL, make_report, per_class, write_report
from resnext.evaluation.run import count_shards, thread_pool
from resnext.evaluation.transform import CROP, choose_transform
from resnext.model import ResNeXt
from resnext.weights.records import records
from resnext.zoo import get_architecture

IMAGENET_CLASSES = 1000
MAX_WORKERS = 8  # by default
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
        help="a folder with a folder of images for each class, or WebDataset shards: a folder of .tar files, "
        "shards-{000..003}.tar, a URL, pipe:COMMAND",
    )
    add_model_options(parser)
    parser.add_argument(
        "--preprocess",
        choices=("torch7", "torchvision"),
        default="torch7",
        help="torch7: as the authors did it (default); torchvision: bilinear, antialiased, as its own networks have it",
    )
    parser.add_argument("--crop", type=int, metavar="PX", help=f"side of the crop: {CROP} (default) or 320")
    parser.add_argument("--ten-crop", action="store_true", help="the mean over corners and centre, and these mirrored")
    parser.add_argument("--batch", type=_whole(1), default=64, metavar="N", help="images in a batch; default: 64")
    parser.add_argument(
        "--workers",
        type=_whole(0),
        metavar="N",
        help=f"processes that read images, for each that computes; default: one a core, {MAX_WORKERS} at most",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast to bfloat16")
    parser.add_argument(
        "--on-error", choices=("wrong", "exclude"), default="wrong", help="what an unreadable image counts as"
    )
    parser.add_argument("--output", metavar="FILE", help="the report (JSON); a table per class (.csv) goes beside it")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same --output")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    path = _report_path(options.output, options.resume)
    if importlib.util.find_spec("PIL") is None:
        raise CommandError("evaluate reads images with Pillow: pip install pillow")
    checkpoint = find_checkpoint(options.arch, options.weights)
    model = checkpoint.load()
    transform, preprocessing = choose_transform(model, options.preprocess, options.crop, options.ten_crop)
    outputs = Outputs.of(model.preprocessing, model.num_classes)
    data = open_data(options.data, outputs, options.batch)
    processes = Processes.from_environment()
    device, workers = processes.device, options.workers
    if workers is None:
        workers = min(processes.cores, MAX_WORKERS)
    threads = min(processes.cores, torch.get_num_threads())  # fewer where OMP_NUM_THREADS says so
    setup = _setup(options, checkpoint, model, data, preprocessing, device.type)
    run = _decisive(setup)
    partial = PartialCounts(path, run) if path else None

    with processes.connected(), thread_pool(threads) as pool:
        found = _begin(processes, run, partial, options.resume)
        shards = [shard for shard in range(len(data)) if shard not in found][processes.rank :: processes.size]
        start = time.perf_counter()
        batches = load(data, shards, transform, workers=workers, pin=device.type == "cuda")
        batches = _progress(batches, data.images(shards), processes)
        mine: dict[int, Counts] = {}
        for shard, counts in count_shards(model, batches, device, options.precision, pool):
            if partial:
                partial.keep(shard, counts)
            mine[shard] = counts
        new = {shard: counts for part in processes.gather(mine) for shard, counts in part.items()}
        seconds = time.perf_counter() - start
        if processes.rank == 0:
            images = sum(counts.total.images for counts in new.values())
            timing = {
                "images_per_second": images / seconds,
                "images": images,
                "seconds": seconds,
                "processes": processes.size,
                "workers": workers,
                "threads": threads,
            }
            counts = _merge({**found, **new})
            report = make_report(counts, on_error=options.on_error, reported=_reported(setup, counts), setup=setup)
            if path:
                write_report(path, report, per_class(counts, data.labels, outputs.names), timing)
            _show(report, timing)
        processes.gather(None)  # nobody clears up before the report is written
        if partial:
            partial.discard()
    return 0


def _show(report: dict[str, Any], timing: dict[str, Any]) -> None:
    print(table(_summary(report, timing)))
    unreadable = report["unreadable"]["images"]
    for image in unreadable[:MAX_NAMED]:
        print(f"resnext: unreadable: {image['image']}: {image['reason']}", file=sys.stderr)
    if len(unreadable) > MAX_NAMED:
        print(f"resnext: {len(unreadable) - MAX_NAMED} more are unreadable; --output names all", file=sys.stderr)


def _summary(report: dict[str, Any], timing: dict[str, Any]) -> list[tuple[str, str]]:
    """The report in a few lines."""
    interval, unreadable = report["confidence_interval"], report["unreadable"]
    rows = [("network", report["network"]), ("images", f"{report['images']:,}")]
    for name, key in (("top-1 error", "top1_error"), ("top-5 error", "top5_error")):
        low, high = interval[key]
        rows.append((name, f"{report[key]:.2f} %  ({LEVEL:.0%}: {low:.2f} to {high:.2f}, Wilson)"))
    if report["reported_top1_error"] is not None:
        rows.append(("reported", f"{report['reported_top1_error']} % top-1 by the authors, on ImageNet validation"))
    if unreadable["images"]:
        rows.append(("unreadable", f"{len(unreadable['images']):,}, counted as {unreadable['counted_as']}"))
    rows.append(("speed", f"{timing['images_per_second']:.1f} images/s"))
    return rows


def _begin(processes: Processes, run: dict[str, str], partial: PartialCounts | None, resume: bool) -> dict[int, Counts]:
    """What an interrupted run has counted already; the folder for what this one will."""
    found: dict[int, Counts] = {}
    if partial and resume:
        found = partial.resume()
    elif partial and processes.local_rank == 0 and (shards := partial.discard()):
        print(f"resnext: counts of {shards} shards of an interrupted run are discarded; --resume goes on from them",
              file=sys.stderr)  # fmt: skip
    states = processes.gather((run, found))
    for rank, (other, counts) in enumerate(states):
        if differences := [f"{key} {value}, and {run[key]} here" for key, value in other.items() if value != run[key]]:
            raise CommandError(
                f"process {rank} would count something else than process {processes.rank}: {'; '.join(differences)}"
            )
        found = {**found, **counts}  # the machines need not share a file system
    if partial:
        partial.open()
    return found


def _merge(shards: dict[int, Counts]) -> Counts:
    total = Counts()
    for _, counts in sorted(shards.items()):
        total.merge(counts)
    return total


def _setup(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    model: ResNeXt,
    data: Folder | Tars,
    preprocessing: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """All that decides the figures, for the report."""
    return {
        "network": _network(checkpoint, model),
        "weights": {"file": checkpoint.path.name, "sha256": checkpoint.sha256},
        "data": {"path": data.path, "format": data.format, "sha256": data.digest},
        "preprocessing": preprocessing,
        "precision": options.precision,
        "batch": options.batch,
        "device": device,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "pillow")},
        },
    }


def _decisive(setup: dict[str, Any]) -> dict[str, str]:
    """The set-up for comparison: each part in words, and files by their content, wherever they lie."""
    return {key: value["sha256"] if key in ("weights", "data") else str(value) for key, value in setup.items()}


def _network(checkpoint: Checkpoint, model: ResNeXt) -> str:
    if checkpoint.arch is None:
        found = Architecture.from_shapes({name: tuple(value.shape) for name, value in model.state_dict().items()})
    else:
        found = get_architecture(checkpoint.arch)
    return f"{found.name}_type{model.form}"


def _reported(setup: dict[str, Any], counts: Counts) -> float | None:
    """The top-1 error that the authors report of this network, where it is tested as they did, on ImageNet's classes.

    None for any other run: of another crop, pipeline or precision, or of images of some of the classes only.
    """
    record = records().get(setup["network"].partition("_type")[0])
    theirs = {"pipeline": "torch7", "crop": CROP, "ten_crop": False}
    same = theirs.items() <= setup["preprocessing"].items() and setup["precision"] == "fp32"
    return record.top1_error if record and same and counts.classes.keys() == set(range(IMAGENET_CLASSES)) else None


def _report_path(output: str | None, resume: bool) -> Path | None:
    if output is None:
        if resume:
            raise CommandError("--resume needs --output: what was counted so far lies beside the report")
        return None
    path = Path(output)
    if path.suffix == ".csv":
        raise CommandError(f"--output {output}: that is where the table per class goes; give the report's name (.json)")
    if path.is_dir() or not path.parent.is_dir():
        raise CommandError(f"--output {output}: expected a file in a folder that exists")
    return path


def _progress(batches: Iterable[Batch], images: int | None, processes: Processes) -> Iterator[Batch]:
    """The batches, with a bar on the first process's terminal."""
    from torch.hub import tqdm  # type: ignore[attr-defined]  # tqdm, or a plain stand-in where it is not installed

    desc = "evaluate" if processes.size == 1 else f"evaluate, process 1 of {processes.size}"
    with tqdm(total=images, desc=desc, disable=processes.rank > 0 or not sys.stderr.isatty()) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.targets) + len(batch.unreadable))


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() else least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} up, got {text}")
        return number

    return parse
