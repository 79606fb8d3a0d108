"""`python -m resnext predict`: what is in an image, by name."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor, nn

from resnext.classes import output_ids, output_names
from resnext.command_line import CommandError, Parser, add_model_options, load_model
from resnext.explain import map_features
from resnext.images import ImageError, find_images, is_url, local_path, read_image
from resnext.model import ResNeXt
from resnext.plot import BARS, MAX_ROWS, Row, save
from resnext.preprocess import SETTINGS

_PIXELS_AT_ONCE = 16 * 224 * 224  # that go through the network together


def add_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `predict` to the commands of `python -m resnext`."""
    parser = commands.add_parser("predict", help="what is in an image, by name")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, a folder of them, or a URL")
    add_model_options(parser)
    parser.add_argument("--top", type=_positive, default=5, metavar="N", help="classes for each image; default: 5")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="OUT.png",
        help=f"draw each image, where in it the network sees its class, and the {BARS} most probable classes "
        f"(at most {MAX_ROWS} images)",
    )
    parser.set_defaults(run=_predict)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text}")
    return int(text)


def _predict(options: argparse.Namespace) -> int:
    """The exit status: 0, 1 where images were skipped, 2 where all were."""
    _need("PIL", "pillow", "predict")
    sources, problems = find_images(options.images)
    if options.plot is not None:
        _check_plot(options.plot, sources)
    entries: list[dict[str, Any]] = []
    rows: list[Row] = []
    if sources:
        model = load_model(options.arch, options.weights)
        preprocess = _preprocessing(model, options.top)
        names = output_names(model.preprocessing, model.num_classes)
        ids = output_ids(model.preprocessing, model.num_classes)
        for result in _results(model, _read(sources, preprocess, problems), max(options.top, BARS)):
            entries.append(_entry(result, options.top, names, ids))
            if options.plot is not None:
                rows.append(_row(result, names, model.preprocessing))
    for problem in problems:
        print(f"resnext: skipped {problem}", file=sys.stderr)
    if not entries:
        return 2
    if options.plot is not None:
        save(rows, options.plot)
    print(json.dumps(entries, indent=2) if options.json else _printable("\n".join(map(_text, entries))))
    return 1 if problems else 0


@dataclass(frozen=True)
class _Result:
    """What the network makes of an image: its most probable classes in falling order, and where it sees the first."""

    source: str
    image: Tensor  # (3, H, W), preprocessed
    map: Tensor  # (h, w)
    classes: list[int]
    probabilities: list[float]


def _results(model: ResNeXt, images: Iterable[tuple[str, Tensor]], count: int) -> Iterator[_Result]:
    for batch in _batches(images):
        sources, inputs = zip(*batch, strict=True)
        with torch.inference_mode():
            features = model.forward_features(torch.stack(inputs))
            probabilities, classes = model.forward_head(features).softmax(1).topk(min(count, model.num_classes))
            maps = map_features(model, features, classes[:, 0])
        if not probabilities.isfinite().all():
            raise CommandError(f"the network gives no finite logits for {sources[0]} …: are its weights whole?")
        yield from map(_Result, sources, inputs, maps, classes.tolist(), probabilities.tolist())


def _batches(images: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Neighbours of one size together, as many as fit; only CIFAR's preprocessing leaves images of several sizes."""
    batch: list[tuple[str, Tensor]] = []
    for source, image in images:
        pixels = (len(batch) + 1) * image.shape[1] * image.shape[2]
        if batch and (image.shape != batch[0][1].shape or pixels > _PIXELS_AT_ONCE):
            yield batch
            batch = []
        batch.append((source, image))
    if batch:
        yield batch


def _read(sources: list[str], preprocess: nn.Module, problems: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Each image that can be read, preprocessed; `problems` gets the others."""
    from torch.hub import tqdm  # type: ignore[attr-defined]  # tqdm, or a plain stand-in where it is not installed

    with tqdm(total=len(sources), unit="image", disable=not sys.stderr.isatty()) as bar:
        for source in sources:
            try:
                image = preprocess(read_image(source))
            except ImageError as error:
                problems.append(str(error))
            except ValueError as error:  # one that cannot be preprocessed
                problems.append(f"{source}: {error}")
            else:
                yield source, image
            bar.update(1)


def _need(module: str, package: str, what: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError:
        raise CommandError(f"{what} needs {package}: pip install {package}") from None


def _check_plot(path: Path, sources: Sequence[str]) -> None:
    """Refuse, before any work is done, what the plot cannot show and where it cannot go."""
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


def _preprocessing(model: ResNeXt, top: int) -> nn.Module:
    """How images become the network's input, if the network can do what is asked for."""
    if top > model.num_classes:
        raise CommandError(f"argument --top: expected at most the network's {model.num_classes} classes, got {top}")
    try:
        return model.preprocess
    except ValueError as error:  # not three channels
        raise CommandError(str(error)) from None


def _entry(result: _Result, top: int, names: Sequence[str], ids: Sequence[str | None]) -> dict[str, Any]:
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
        lines.append(f"  {best['probability'] * 100:6.2f} %{wordnet_id}  {best['name']}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Names of files may have characters that stdout has not."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _row(result: _Result, names: Sequence[str], data_set: str) -> Row:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in SETTINGS[data_set])
    image = (result.image * std + mean) / (1 if data_set == "imagenet" else 255)  # CIFAR's are pixel values
    path = unquote(urlsplit(result.source).path) if is_url(result.source) else result.source
    return Row(
        os.path.basename(path) or result.source,
        image,
        result.map,
        [names[index] for index in result.classes[:BARS]],
        result.probabilities[:BARS],
    )
