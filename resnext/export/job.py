"""What an export is made of: what was asked for, the module that is exported, the images that it is checked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import resnext
from resnext.export.provenance import provenance
from resnext.inference.fold import bare_copy, check_model, relative_error
from resnext.inference.optimize import PRECISIONS, prepare
from resnext.model import ResNeXt
from resnext.preprocess import get_preprocess


@dataclass(frozen=True)
class Options:
    """What is asked for; see `resnext.export.export`. Raises ValueError for what contradicts itself."""

    format: str
    precision: str = "fp32"
    with_preprocess: bool = False
    dynamic: bool = False
    image_size: int | tuple[int, int] | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if (self.format, self.precision) == ("onnx", "bf16"):
            raise ValueError(
                "--format onnx and --precision bf16 contradict each other: ONNX Runtime has no bf16 convolution for "
                "the CPU, so that the file could not be checked; take fp16 or fp32"
            )
        given = {
            "--with-preprocess": self.with_preprocess,
            "--dynamic": self.dynamic,
            "--image-size": self.image_size is not None,
            "--batch-size": self.batch_size is not None,
        }
        for name in [name for name in given if given[name] and self.weights_only]:
            raise ValueError(f"--format safetensors and {name} contradict each other: it holds weights alone")

    @property
    def weights_only(self) -> bool:
        """Whether the format holds no graph."""
        return self.format == "safetensors"

    @property
    def any_shape(self) -> bool:
        """Whether N, H and W are open; TorchScript cannot fix them."""
        return self.dynamic or self.format == "torchscript"


class Exported(nn.Module):
    """What a file holds: images -> logits, by a preprocessing (or none) and a network.

    Takes float32 (N, C, H, W), or uint8 where there is a preprocessing; returns float32 (N, num_classes).
    """

    def __init__(self, preprocess: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.network = preprocess, network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images))


@dataclass(frozen=True)
class Job:
    """One export."""

    options: Options
    network: ResNeXt  # float32, for evaluation
    module: Exported  # the same network, folded, in its precision
    images: tuple[Tensor, ...]  # random; exported with the shape of the first, checked on all
    metadata: Mapping[str, str]

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any]] | None:
        """N, H and W, as torch.export takes them."""
        return (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),) if self.options.dynamic else None

    def largest_error(self, run: Callable[[Tensor], Tensor]) -> float:
        """The largest relative error of the logits that `run` gives; NaN where any is.

        Raises RuntimeError for logits of another shape.
        """
        errors: list[float] = []
        with torch.inference_mode():
            for images in self.images:
                got, expected = run(images), self.network(self.module.preprocess(images))
                if got.shape != expected.shape:
                    raise RuntimeError(f"expected logits of shape {tuple(expected.shape)}, got {tuple(got.shape)}")
                errors.append(relative_error(got, expected))
        return float(torch.tensor(errors).max())


def make_job(model: ResNeXt, options: Options, weights: Path | None) -> Job:
    """The export of a model, which stays as it is.

    Raises TypeError for another module than a ResNeXt with logits, ValueError for one that cannot be exported so.
    """
    check_model(model)
    if options.with_preprocess and model.in_channels != 3:
        raise ValueError(
            f"--with-preprocess and a network for {model.in_channels} channels contradict each other; expected 3"
        )
    shapes = _shapes(model, options)
    network = bare_copy(model).to("cpu", torch.float32).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = tuple(_random(shape, options.with_preprocess, generator) for shape in shapes)
    preprocess = get_preprocess(model.preprocessing) if options.with_preprocess else nn.Identity()
    folded, _ = prepare(network, preprocess(images[0]), options.precision)
    metadata = {
        **provenance(network, weights),
        "precision": options.precision,
        "project": f"resnext {resnext.__version__}",
        "torch": str(torch.__version__),
    }
    if not options.weights_only:
        metadata |= {
            "preprocessing_included": str(options.with_preprocess).lower(),
            "input_name": "images",
            "input_dtype": "uint8" if options.with_preprocess else "float32",
            "input_shape": f"N x {model.in_channels} x H x W" if options.any_shape else " x ".join(map(str, shapes[0])),
            "output_name": "logits",
        }
    return Job(options, network, Exported(preprocess, folded).eval(), images, metadata)


def _shapes(model: ResNeXt, options: Options) -> list[tuple[int, ...]]:
    """Of the images."""
    resized = options.with_preprocess and model.stem == "imagenet"
    default = 32 if model.stem == "cifar" else 256 if resized else 224
    size = default if options.image_size is None else options.image_size
    height, width = (size, size) if isinstance(size, int) else size
    batch = 1 if options.batch_size is None else options.batch_size
    # With 32 px the last map is 1 x 1, which torch.export keeps apart from all other sizes.
    least = 1 if resized else 33 if options.dynamic and model.stem == "imagenet" else 32
    if min(height, width) < least or batch < 1:
        raise ValueError(
            f"images of {height} x {width} px, batches of {batch}; expected {least} px or more, and 1 or more"
        )
    first = (batch, model.in_channels, height, width)
    if not options.any_shape:
        return [first, first]
    # torch.export takes a batch of 1 for one that can only be 1
    sizes = [(max(batch, 2), height, width), (1, height, width + 32), (3, height + 40, width + 9)]
    return [(count, model.in_channels, height, width) for count, height, width in sizes]


def _random(shape: tuple[int, ...], pixels: bool, generator: torch.Generator) -> Tensor:
    if pixels:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)
