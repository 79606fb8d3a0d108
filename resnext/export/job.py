"""A network as a file for another runtime: written, loaded there, compared, and only then given its name."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import resnext
from resnext.architecture import Architecture
from resnext.export.formats import FORMATS, Exported
from resnext.inference.fold import allowed_error, bare_copy, check_model, relative_error
from resnext.inference.optimize import PRECISIONS, TOLERANCE, prepare
from resnext.model import ResNeXt
from resnext.preprocess import Preprocessing, get_preprocess
from resnext.weights.atomic import replacing
from resnext.weights.download import sha256_of
from resnext.weights.files import WeightsError, first_line, tensor_digest
from resnext.weights.layouts import LAYOUTS
from resnext.weights.records import Record, read_json, records

UNKNOWN = "not stated"


class ExportError(RuntimeError):
    """An export that failed. Nothing was written, and a file that was at the path is unchanged. Says why."""

    exit_status = 1  # of the command


@dataclass(frozen=True)
class Report:
    """What was exported: the metadata in the file, and the largest relative error of its logits."""

    path: Path
    format: str
    metadata: dict[str, str]
    error: float


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
    layout: str | None = None,
) -> Report:
    """Write a network to a file for another runtime, load it there, compare, and only then give it its name.

    The input `images` is float32 (N, C, H, W) as `model` takes it, or uint8 (N, 3, H, W) `with_preprocess`; the output
    `logits` is float32 (N, num_classes), in every precision. The model stays as it is, and is exported for evaluation;
    its hooks do not run.

    Args:
        model: any `ResNeXt` with logits, of any form; all but safetensors hold it as form C, batch norms folded.
        path: the file, in a folder that exists; a file that is there is replaced. "pt2" and "aoti" must end in `.pt2`.
        format: "onnx" (opset 20), "safetensors" (only the weights), "torchscript", "pt2" (torch.export), or "aoti"
            (compiled for this processor; `resnext.aoti.load` reads it and checks what it is given).
        precision: "fp32", "bf16" (not for ONNX, whose runtime has no such convolution for the CPU) or "fp16".
        with_preprocess: put the authors' preprocessing (`resnext.preprocess`) in front.
        dynamic: leave N, H and W open. TorchScript always does.
        image_size: H and W, or one number for both; default: what the network was trained for, or 256 where its
            preprocessing resizes it. With `dynamic` it is an example.
        batch_size: N; default: 1. With `dynamic` it is an example.
        weights: the file that the weights came from, for the metadata: its name and digest, and their licence.
        layout: with "safetensors", whose names the entries get, as form C: one of `resnext.weights.layouts.LAYOUTS`,
            such as "mmpretrain". Default: our own, which are torchvision's for form C.

    Raises TypeError for a module that is not a ResNeXt with logits; ValueError for arguments that do not go together
    and for a network that cannot be folded; ModuleNotFoundError for a package that the format needs;
    WeightsError where `weights` cannot be read; ExportError where the file cannot be written, or its own runtime does
    not load it or computes logits that differ by more than `resnext.optimize` allows.
    """
    options = Options(Path(path), format, precision, with_preprocess, dynamic, image_size, batch_size, layout)
    with torch.autocast("cpu", enabled=False):  # it would go into the graph, and into what that is compared with
        return _run(_make_job(model, options, None if weights is None else Path(weights)))


@dataclass(frozen=True)
class Options:
    """The arguments of `export`, checked as far as possible without a network. Raises as `export` does."""

    path: Path
    format: str
    precision: str = "fp32"
    with_preprocess: bool = False
    dynamic: bool = False
    image_size: int | tuple[int, int] | None = None
    batch_size: int | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        self._check_format()
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ValueError(f"unknown layout {self.layout!r}; expected one of {', '.join(LAYOUTS)}")
        if self.layout is not None and not self.weights_only:
            raise ValueError(
                f"format {self.format!r} does not go with layout: it is for safetensors, which holds names"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if (self.format, self.precision) == ("onnx", "bf16"):
            raise ValueError(
                "format 'onnx' does not go with precision 'bf16': ONNX Runtime has no bf16 convolution for the CPU, so "
                "the file could not be checked; use 'fp16' or 'fp32'"
            )
        given = {
            "with_preprocess": self.with_preprocess,
            "dynamic": self.dynamic,
            "image_size": self.image_size is not None,
            "batch_size": self.batch_size is not None,
        }
        for name in [name for name in given if given[name] and self.weights_only]:
            raise ValueError(f"format {self.format!r} does not go with {name}: it holds only weights")
        self._check_path()

    def _check_format(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"unknown format {self.format!r}; expected one of {', '.join(FORMATS)}")
        packages = FORMATS[self.format].packages
        if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
            raise ModuleNotFoundError(
                f"format {self.format!r} needs {', '.join(missing)}: pip install {' '.join(packages)}"
            )

    def _check_path(self) -> None:
        path, suffix = self.path, FORMATS[self.format].suffix
        if suffix is not None and path.suffix != suffix:
            raise ValueError(
                f"format {self.format!r}: expected a path that ends in {suffix}, as torch does, got {path}"
            )
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be written; expected a file in a folder that exists and may be written to")

    @property
    def weights_only(self) -> bool:
        """Whether the format holds no graph."""
        return self.format == "safetensors"

    @property
    def any_shape(self) -> bool:
        """Whether N, H and W are open; TorchScript cannot fix them."""
        return self.dynamic or self.format == "torchscript"


@dataclass(frozen=True)
class Job:
    """One export."""

    options: Options
    network: ResNeXt  # float32, for evaluation
    module: Exported  # the same network, folded, in its precision
    images: tuple[Tensor, ...]  # random; exported with the shape of the first, checked on all
    metadata: Mapping[str, str]


def _make_job(model: ResNeXt, options: Options, weights: Path | None) -> Job:
    check_model(model)
    path = options.path
    if weights is not None and path.exists() and weights.exists() and path.samefile(weights):
        raise ValueError(f"{path} is the file with the weights; choose another name")
    if options.with_preprocess and model.in_channels != 3:
        raise ValueError(f"with_preprocess gives 3 channels, but this network takes {model.in_channels}")
    if options.with_preprocess and Preprocessing.of(model.preprocessing).pipeline == "torchvision":
        raise ValueError(
            "with_preprocess does not go with the pipeline torchvision: Pillow resizes, which no file can hold"
        )
    shapes = _shapes(model, options)
    network = bare_copy(model).to("cpu", torch.float32).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = tuple(_random(shape, options.with_preprocess, generator) for shape in shapes)
    preprocess = get_preprocess(model.preprocessing) if options.with_preprocess else nn.Identity()
    folded, _ = prepare(network, preprocess(images[0]), options.precision)
    metadata = _describe_weights(network, weights) | _describe_file(network, options, shapes[0])
    return Job(options, network, Exported(preprocess, folded).eval(), images, metadata)


def _shapes(model: ResNeXt, options: Options) -> list[tuple[int, ...]]:
    """The shapes of the images that the network is exported with and checked on."""
    settings = Preprocessing.of(model.preprocessing)
    resized = options.with_preprocess and settings.resize is not None
    default = (settings.resize if resized else settings.crop) or (32 if model.stem == "cifar" else 224)
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


def _run(job: Job) -> Report:
    """Write, check, and put in place."""
    path, format = job.options.path, job.options.format
    try:
        with replacing(path, FORMATS[format].suffix or "") as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # meant for the authors of exporters
            FORMATS[format].write(job, temporary)
            error = _check(job, temporary)
    except ExportError:
        raise
    except Exception as failure:  # each exporter has its own
        raise ExportError(f"{path}: not written: {_reason(failure)}") from failure
    return Report(path, format, dict(job.metadata), error)


def _check(job: Job, temporary: Path) -> float:
    """The largest relative error of the logits that the file's own runtime computes; if too large, ExportError."""
    options, format = job.options, FORMATS[job.options.format]
    try:
        run, metadata = format.load(job, temporary)
        if lost := [key for key, value in job.metadata.items() if metadata.get(key) != value]:
            raise RuntimeError(f"the file lost metadata: {', '.join(lost)}")
        error = _largest_error(job, run)
    except Exception as failure:  # each runtime has its own
        raise ExportError(
            f"{options.path}: not written: {format.runtime} does not load it: {_reason(failure)}"
        ) from failure
    limit = TOLERANCE[options.precision]
    if not error <= limit:
        dtype = PRECISIONS[options.precision]
        limit = max(allowed_error(job.network, job.module.preprocess(x), dtype, limit) for x in job.images)
    if not error <= limit:
        raise ExportError(
            f"{options.path}: not written: the logits that {format.runtime} computes are off by {error:.1e} "
            f"(relative); expected at most {limit:.0e} in {options.precision}"
        )
    return error


def _reason(failure: Exception) -> str:
    return (isinstance(failure, OSError) and failure.strerror) or first_line(failure)


def _largest_error(job: Job, run: Callable[[Tensor], Tensor]) -> float:
    """The largest relative error over all images, NaN if any is. Raises RuntimeError for logits of another shape."""
    errors: list[float] = []
    with torch.inference_mode():
        for images in job.images:
            got, expected = run(images), job.network(job.module.preprocess(images))
            if got.shape != expected.shape:
                raise RuntimeError(f"expected logits of shape {tuple(expected.shape)}, got {tuple(got.shape)}")
            errors.append(relative_error(got, expected))
    return float(torch.tensor(errors).max())


# --- metadata: names and values ---------------------------------------------------------------------------------------


def _describe_file(model: ResNeXt, options: Options, shape: tuple[int, ...]) -> dict[str, str]:
    """What the file holds, and what it wants as input."""
    result = {
        "form": model.form if options.weights_only and options.layout is None else "C",  # folding makes form C
        "precision": options.precision,
        "project": f"resnext {resnext.__version__}",
        "torch": str(torch.__version__),
        **({} if options.layout is None else {"layout": options.layout}),
        **_describe_preprocessing(model),
    }
    if options.weights_only:
        return result
    return result | {
        "preprocessing_included": str(options.with_preprocess).lower(),
        "input_name": "images",
        "input_dtype": "uint8" if options.with_preprocess else "float32",
        "input_shape": f"N x {model.in_channels} x H x W" if options.any_shape else " x ".join(map(str, shape)),
        "output_name": "logits",
    }


def _describe_preprocessing(model: ResNeXt) -> dict[str, str]:
    """The whole of the authors' preprocessing, for runtimes that lack it: pixels, and mean and std of R, G, B."""
    if model.in_channels != 3:
        return {"preprocessing": UNKNOWN}
    settings = Preprocessing.of(model.preprocessing)
    resized = settings.resize is not None
    interpolation = {
        "torch7": "bicubic, a = -0.5, corners aligned, not antialiased",
        "torchvision": f"{settings.interpolation}, antialiased, as Pillow does it",
        "cifar": "none",
    }
    return {
        "preprocessing": settings.name or settings.pipeline,
        "preprocessing_resize": f"shorter side {settings.resize}" if resized else "none",
        "preprocessing_interpolation": interpolation[settings.pipeline],
        "preprocessing_crop": f"centre {settings.crop}" if resized else "none",
        "preprocessing_values": "0 to 1" if resized else "0 to 255",
        "preprocessing_mean": ", ".join(map(str, settings.mean)),
        "preprocessing_std": ", ".join(map(str, settings.std)),
    }


def _describe_weights(model: ResNeXt, weights: Path | None) -> dict[str, str]:
    """Architecture and origin of a network, whose weights were read from the file `weights`.

    `tensor_digest` is of the weights before they are folded; for a converted network of form C it is the one in the
    `.json` file beside the weights. The licence comes from the record that has the file's digest or name, or from that
    `.json` file if it has the digest. Raises WeightsError for a file that cannot be read.
    """
    result = {
        "architecture": _architecture(model),
        "num_classes": str(model.num_classes),
        "tensor_digest": tensor_digest(model.state_dict()),
        "source": UNKNOWN,
        "source_sha256": UNKNOWN,
        "license": UNKNOWN,
    }
    if weights is None:
        return result
    try:
        digest = sha256_of(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: cannot be read: {error.strerror or error}") from None
    return result | {"source": weights.name, "source_sha256": digest} | _license(weights, digest)


def _architecture(model: ResNeXt) -> str:
    """Its name, read off the shapes; a network without a classifier has none."""
    try:
        return Architecture.of(model).name
    except ValueError:
        return UNKNOWN


def _license(weights: Path, digest: str) -> dict[str, str]:
    for record in records().values():
        if _is_published(record, weights, digest):
            return {"license": record.license}
    beside = read_json(weights.with_suffix(".json")) or {}
    file, source = (part if isinstance(part := beside.get(key), dict) else {} for key in ("file", "source"))
    if file.get("sha256") != digest:  # another file's
        return {}
    known = {"license": beside.get("license"), "torch7": source.get("name"), "torch7_sha256": source.get("sha256")}
    return {name: value for name, value in known.items() if isinstance(value, str)}


def _is_published(record: Record, weights: Path, digest: str) -> bool:
    """By the digest; where the authors' file has none, by its name, as in `conversion/build_weights.py`."""
    if record.hosted is not None and record.hosted.sha256 == digest:
        return True
    return record.torch7.sha256 == digest or (record.torch7.sha256 is None and record.torch7.file == weights.name)
