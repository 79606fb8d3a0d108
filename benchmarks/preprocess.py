"""Time of the authors' preprocessing beside torchvision's v2 pipeline, for the same images.

Ours: `Torch7Preprocess()`. torchvision's: shorter side to 256 (bicubic, antialiased), crop of 224 in the centre, float
from 0 to 1, normalise. The input is a decoded PIL image, since decoding is the same for both, or a uint8 tensor
(3, H, W). With torch's default number of threads, and with one, as in a DataLoader's worker. A run is several images;
the table shows the time per image.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image

from benchmarks.measure import Result, interleave, ratio, spread, target
from benchmarks.ready import import_package
from resnext.cli.command_line import table
from resnext.preprocess import IMAGENET, Torch7Preprocess

SIZES = ((375, 500), (1200, 1600))  # height, width
SECONDS = 0.1  # of a run, approximately
Transform = Callable[[Any], torch.Tensor]


def run(options: Namespace) -> list[Result]:
    """Measure; print the table and the targets."""
    print(f"{options.runs} runs of about {SECONDS} s each, median (quartiles) of the time per image\n")
    transforms: dict[str, Transform] = {"ours": Torch7Preprocess()}
    missing = {} if importlib.util.find_spec("torchvision") else {"torchvision": "not installed"}
    if not missing:
        transforms["torchvision"] = torchvision_pipeline()
    rows: list[tuple[str, ...]] = [("image", "as", "threads", *transforms, "of torchvision's")]
    lines = [f"{name}: {why}" for name, why in missing.items()]
    results: list[Result] = []
    default = torch.get_num_threads()
    for height, width in SIZES:
        size = f"{height} x {width}"
        image = Image.frombytes("RGB", (width, height), random.Random(0).randbytes(3 * height * width))
        tensor = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3)
        for kind, example in (("PIL image", image), ("tensor", tensor.permute(2, 0, 1).contiguous())):
            for threads in sorted({default, 1}, reverse=True):
                torch.set_num_threads(threads)
                calls = max(1, round(SECONDS / seconds(transforms["ours"], example, 3)))
                contenders = {name: partial(seconds, call, example, calls) for name, call in transforms.items()}
                times = interleave(contenders, options.runs)
                share = "-" if missing else f"{ratio(times['ours'], times['torchvision']):.2f}"
                rows.append((size, kind, str(threads), *(spread(times[name], "ms", 1e3) for name in transforms), share))
                title = f"{size}, {kind}, threads: {threads}"
                results.append(Result("preprocess", title, "time per image", "s", times, missing))
                if kind == "PIL image" and not missing:
                    lines.append(target(f"{title}: at most torchvision's time", float(share), 1))
    torch.set_num_threads(default)
    print(table(rows), "", *lines, sep="\n")
    return results


def seconds(transform: Transform, image: Any, calls: int) -> float:
    """Time per call."""
    started = time.perf_counter()
    for _ in range(calls):
        transform(image)
    return (time.perf_counter() - started) / calls


def torchvision_pipeline() -> Transform:
    """The usual alternative."""
    import_package("torchvision")
    v2 = importlib.import_module("torchvision.transforms.v2")
    return v2.Compose(
        [
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET.mean, IMAGENET.std),
        ]
    )
