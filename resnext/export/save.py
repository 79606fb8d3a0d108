"""A network's weights in a file that remembers what is needed to use them: `resnext.save`."""

from __future__ import annotations

import io
import itertools
import json
import os
import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import resnext
from resnext.architecture import Architecture, check_shapes
from resnext.forms import convert_state_dict
from resnext.inference.fold import check_model
from resnext.model import ResNeXt
from resnext.preprocess import Preprocessing
from resnext.weights.atomic import replacing
from resnext.weights.files import LARGEST_RECORD, RECORD

_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a zip archive, so that saving twice gives the same bytes


def save(
    model: ResNeXt,
    path: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    preprocessing: str | Preprocessing | Mapping[str, Any] | None = None,
    license: str | None = None,
    source: str | None = None,
) -> Path:
    """Write the weights of a network, with what is needed to use them, to a `.pth` or `.safetensors` file.

    `resnext.from_checkpoint` and everything else that loads weights read it again. The file is a plain state_dict for
    everybody else: `torch.load(path, weights_only=True)`, `safetensors.torch.load_file(path)`. It appears under its
    name whole or not at all, and the same network gives the same bytes.

    Args:
        model: any `ResNeXt` with batch norms, of any form.
        path: the file, in a folder that exists; what lies there is replaced. Its name decides the format.
        classes: the names of the outputs in their order; default: `model.classes`.
        preprocessing: as `model.preprocessing`, which is the default; or a mapping with the arguments of
            `resnext.preprocess.Preprocessing`.
        license: of the weights; default: `model.license`, which is that of the weights that the model was made from.
        source: where they come from, in your words.

    Returns the path. The model is left as it is. Raises TypeError and ValueError for arguments that make no sense and
    for weights that could not be loaded again, ModuleNotFoundError without the safetensors package, OSError.
    """
    path = Path(path)
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"{path}: expected a name that ends in .pth or .safetensors")
    tensors, record = state_dict_of(model), make_record(model, classes, preprocessing, license, source)
    data = _pth(tensors, record) if path.suffix == ".pth" else safetensors_bytes(tensors, record)
    with replacing(path) as written:
        written.write_bytes(data)
    return path


def state_dict_of(model: ResNeXt) -> dict[str, Tensor]:
    """The weights on the CPU, each with memory of its own. Raises TypeError and ValueError as `save` does."""
    check_model(model)
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    try:
        architecture = _architecture(model)
        expected = architecture.build_empty(form=model.form, **_options(model)).state_dict()
        check_shapes(_shapes(tensors), _shapes(expected), f"{architecture.name} with batch norms")
    except ValueError as error:
        raise ValueError(f"the file could not be loaded again: {error}") from None
    return tensors


def make_record(
    model: ResNeXt,
    classes: Sequence[str] | None = None,
    preprocessing: str | Preprocessing | Mapping[str, Any] | None = None,
    license: str | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """What is kept with the weights of a network; the arguments are those of `save`. Raises as that does."""
    classes = model.classes if classes is None else classes
    architecture = _architecture(model)
    record = {
        "architecture": {"name": architecture.name, "form": model.form, **asdict(architecture), **_options(model)},
        "classes": None if classes is None else _check_classes(classes, model.num_classes),
        "preprocessing": Preprocessing.of(model.preprocessing if preprocessing is None else preprocessing).as_dict(),
        "license": model.license if license is None else license,
        "source": source,
        "versions": {
            "resnext": resnext.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    return {name: value for name, value in record.items() if value is not None}


def _check_classes(classes: Sequence[str], count: int) -> list[str]:
    if isinstance(classes, str) or not all(isinstance(name, str) and name for name in classes):
        raise TypeError("classes: expected a list of names, each a text that is not empty")
    if len(classes) != count:
        raise ValueError(f"classes: expected a name for each of the network's {count} outputs, got {len(classes)}")
    return list(classes)


def _architecture(model: ResNeXt) -> Architecture:
    return Architecture.from_shapes(_shapes(convert_state_dict(model.state_dict(), model.form, "C")))


def _options(model: ResNeXt) -> dict[str, Any]:
    """The arguments of a network that its weights do not tell, where they are not the usual ones."""
    sizes = model.feature_info.reduction()[1:]
    dilated = [before == after for before, after in itertools.pairwise(sizes)]
    return {
        **({"replace_stride_with_dilation": dilated} if any(dilated) else {}),
        **({"global_pool": model.global_pool} if model.global_pool != "avg" else {}),
    }


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _encode(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, allow_nan=False)
    if len(text) > LARGEST_RECORD:
        raise ValueError(f"classes: {len(text):,} bytes of names and more; expected at most {LARGEST_RECORD:,}")
    return text


def _pth(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """What torch.save writes, and one entry more, which torch.load passes over."""
    text, data = _encode(record), io.BytesIO()
    torch.save(dict(tensors), data)
    with zipfile.ZipFile(data, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{root}/{RECORD}", _EARLIEST), text)
    return data.getvalue()


def safetensors_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """A `.safetensors` file whose header holds the record. Raises ModuleNotFoundError."""
    try:
        from safetensors.torch import save as to_bytes
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "writing .safetensors needs the safetensors package: pip install safetensors"
        ) from None
    data = to_bytes(dict(tensors), metadata={"format": "pt", "resnext": _encode(record)})
    # The package writes the metadata in an order that changes from one run to the next; readers take any.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
