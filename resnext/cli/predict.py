"""`python -m resnext predict`: what is in an image, by name."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor, nn

from resnext.classes import output_ids, output_names
from resnext.cli.command_line import (
    CommandError,
    Parser,
    add_checkpoint_options,
    find_checkpoint,
    one_line,
    warn,
    whole_number,
)
from resnext.cli.plot import BARS, MAX_ROWS, Row, save
from resnext.explain import map_features
from resnext.images import ImageError, find_images, read_image
from resnext.model import ResNeXt
from resnext.preprocess import CifarPreprocess, get_preprocess
from resnext.weights.download import is_url, local_path
from resnext.weights.progress import track

_TOP = 5
PIXELS_AT_ONCE = 16 * 224 * 224  # that go through the network together
MAX_PIXELS = 2**20  # of an image that is not resized; it takes some 6 GB in ResNeXt-29, 8x64d


def add_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `predict` to the commands of `python -m resnext`."""
    parser = commands.add_parser("predict", help="what is in an image, by name")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, a folder of them, or a URL")
    add_checkpoint_options(parser)
    parser.add_argument("--top", type=whole_number(1), metavar="N", help=f"classes for each image; default: {_TOP}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="OUT.png",
        help=f"draw each image, where in it the network sees its class, and the {BARS} most probable classes "
        f"(at most {MAX_ROWS} images)",
    )
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    """The exit status: 0, 1 where images were skipped, 2 where all were."""
    _need("PIL", "pillow", "predict")
    found = find_images(options.images)
    sources = [source for source in found if isinstance(source, str)]
    if options.plot is not None:
        _check_plot(options.plot, sources)
    entries: list[dict[str, Any]] = []
    skipped: list[ImageError] = []
    rows: list[Row] = []
    results: Iterable[Result | ImageError] = (error for error in found if isinstance(error, ImageError))
    if sources:
        model = find_checkpoint(options.arch, options.weights, options.ema).load()
        _check_network(model, options.top)
        top = options.top or _TOP
        preprocess = get_preprocess(model.preprocessing)
        names = output_names(model.data_set, model.num_classes, model.classes)
        ids = output_ids(model.data_set, model.num_classes, model.classes)
        results = classify(model, _read(found, preprocess), max(top, BARS))
    for result in results:
        if isinstance(result, ImageError):
            skipped.append(result)
            entries.append({"image": result.source, "error": result.problem})
        else:
            entries.append(_entry(result, top, names, ids))
            if options.plot is not None:
                rows.append(plot_row(result, names, preprocess))
    for error in skipped:
        warn("resnext", f"skipped {error}")
    if rows:
        save(rows, options.plot)
    if options.json:
        print(json.dumps(entries, indent=2))
    elif len(skipped) < len(entries):
        print("\n".join(_text(entry) for entry in entries if "error" not in entry))
    return 0 if not skipped else 1 if len(skipped) < len(entries) else 2


@dataclass(frozen=True)
class Result:
    """What the network sees in an image: its most probable classes in falling order, and where it sees the first."""

    source: str
    image: Tensor  # (3, H, W), preprocessed
    map: Tensor  # (h, w)
    classes: list[int]
    probabilities: list[float]


def classify(
    model: ResNeXt, images: Iterable[tuple[str, Tensor] | ImageError], count: int
) -> Iterator[Result | ImageError]:
    """The `count` most probable classes of each image, in the order of the images; errors stay in their places.

    Raises CommandError where a network has no finite logits.
    """
    for batch in _batches(images):
        if isinstance(batch, ImageError):
            yield batch
            continue
        sources, inputs = zip(*batch, strict=True)
        try:
            with torch.inference_mode():
                features = model.forward_features(torch.stack(inputs))
                probabilities, classes = model.forward_head(features).softmax(1).topk(min(count, model.num_classes))
                maps = map_features(model, features, classes[:, 0])
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            height, width = inputs[0].shape[1:]
            problem = f"this machine's memory is too small for the network at {width} x {height} pixels"
            yield from (ImageError(source, problem) for source in sources)
            continue
        if not probabilities.isfinite().all():
            raise CommandError(f"the network gives no finite logits for {sources[0]} …: are its weights damaged?")
        yield from map(Result, sources, inputs, maps, classes.tolist(), probabilities.tolist())


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)  # torch has no exception class for it


def _batches(images: Iterable[tuple[str, Tensor] | ImageError]) -> Iterator[list[tuple[str, Tensor]] | ImageError]:
    """Neighbours of one size, as many as fit; only CIFAR's preprocessing leaves images of several sizes."""
    batch: list[tuple[str, Tensor]] = []
    for image in images:
        if batch and (isinstance(image, ImageError) or not _fits(image[1], batch)):
            yield batch
            batch = []
        if isinstance(image, ImageError):
            yield image
        else:
            batch.append(image)
    if batch:
        yield batch


def _fits(image: Tensor, batch: Sequence[tuple[str, Tensor]]) -> bool:
    _, height, width = image.shape
    return image.shape == batch[0][1].shape and (len(batch) + 1) * height * width <= PIXELS_AT_ONCE


def _read(found: Sequence[str | ImageError], preprocess: nn.Module) -> Iterator[tuple[str, Tensor] | ImageError]:
    """Each image, preprocessed; an error in place of one that cannot be read or used."""
    for source in track(found, unit="image"):
        yield source if isinstance(source, ImageError) else _read_one(source, preprocess)


def _read_one(source: str, preprocess: nn.Module) -> tuple[str, Tensor] | ImageError:
    try:
        image = read_image(source)
        if isinstance(preprocess, CifarPreprocess) and image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} pixels, which this network takes as they are; expected at most "
                f"{MAX_PIXELS:,} (it was trained on 32 x 32): resize the image first"
            )
        return source, preprocess(image)
    except ImageError as error:
        return error
    except (ValueError, MemoryError, RuntimeError) as error:  # it cannot be preprocessed
        if _is_out_of_memory(error):
            return ImageError(source, "too large for this machine's memory")
        if isinstance(error, ValueError):
            return ImageError(source, str(error))
        raise


def _need(module: str, package: str, what: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError:
        raise CommandError(f"{what} needs {package}: pip install {package}") from None


def _check_plot(path: Path, sources: Sequence[str]) -> None:
    """Raise CommandError, before any work is done, where the plot cannot be drawn or written."""
    _need("matplotlib", "matplotlib", "argument --plot:")
    if path.suffix.lower() != ".png":
        raise CommandError(f"argument --plot: expected a name that ends in .png, got {path}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise CommandError(
            f"argument --plot: {path} cannot be written; expected a file in a folder that exists and may be written to"
        )
    if any(file.exists() and path.exists() and path.samefile(file) for file in filter(None, map(local_path, sources))):
        raise CommandError(f"argument --plot: {path} is one of the images; choose another name")
    if len(sources) > MAX_ROWS:
        raise CommandError(f"argument --plot: expected at most {MAX_ROWS} images, got {len(sources)}")


def _check_network(model: ResNeXt, top: int | None) -> None:
    """Raise CommandError for what the network cannot do."""
    if top is not None and top > model.num_classes:
        raise CommandError(f"argument --top: expected at most the network's {model.num_classes} classes, got {top}")
    if model.in_channels != 3:
        raise CommandError(f"the network takes images of {model.in_channels} channels; expected 3 (RGB)")


def _entry(result: Result, top: int, names: Sequence[str], ids: Sequence[str | None]) -> dict[str, Any]:
    best = zip(result.classes[:top], result.probabilities[:top], strict=True)
    return {
        "image": result.source,
        "predictions": [
            {"class": index, "wordnet_id": ids[index], "name": names[index], "probability": probability}
            for index, probability in best
        ],
    }


def _text(entry: dict[str, Any]) -> str:
    lines = [entry["image"]]
    for best in entry["predictions"]:
        wordnet_id = f"  {best['wordnet_id']}" if best["wordnet_id"] else ""
        lines.append(f"  {best['probability'] * 100:6.2f} %{wordnet_id}  {one_line(best['name'])}")
    return "\n".join(lines)


def plot_row(result: Result, names: Sequence[str], preprocess: Any) -> Row:
    """What the plot shows of a result, of an image that `preprocess` prepared."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    image = result.image * std + mean
    if isinstance(preprocess, CifarPreprocess):  # whose values are those of pixels
        image /= 255
    path = unquote(urlsplit(result.source).path) if is_url(result.source) else result.source
    return Row(
        os.path.basename(path) or result.source,
        image,
        result.map,
        [names[index] for index in result.classes[:BARS]],
        result.probabilities[:BARS],
    )
