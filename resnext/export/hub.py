"""A network as a folder that timm, torchvision, plain torch and this package load: `resnext.save_pretrained`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from resnext.architecture import Architecture
from resnext.export.save import make_record, safetensors_bytes, state_dict_of
from resnext.forms import convert_state_dict
from resnext.model import ResNeXt
from resnext.preprocess import Preprocessing
from resnext.weights.atomic import replacing_all
from resnext.zoo import from_checkpoint

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_pretrained(model: ResNeXt, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write `model.safetensors`, in form C, and `config.json`, as timm writes it, into a folder.

    The files appear whole or not at all. Returns the folder. Raises FileExistsError for a folder that is not empty,
    unless `overwrite`, and TypeError, ValueError and ModuleNotFoundError as `resnext.save` does.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected a new or an empty folder; overwrite=True writes into this one")
    record = make_record(model)
    record["architecture"]["form"] = "C"
    tensors = {
        name: value.contiguous() for name, value in convert_state_dict(state_dict_of(model), model.form, "C").items()
    }
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    config = _config(model, Architecture.from_shapes(shapes))
    with replacing_all(folder) as hidden:
        (hidden / WEIGHTS).write_bytes(safetensors_bytes(tensors, record))
        (hidden / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def _config(model: ResNeXt, architecture: Architecture) -> dict[str, Any]:
    """As timm's `save_config_for_hf` writes it; timm builds its `resnext50_32x4d` with `model_args`.

    A network that timm does not have (CIFAR's, shortcut type C, dilated) has our own name, which timm refuses.
    """
    settings = Preprocessing.of(model.preprocessing)
    side = settings.crop or architecture.image_size
    scale = 255 if settings.pipeline == "cifar" else 1
    dilated = len(set(model.feature_info.reduction())) < len(model.feature_info)  # which timm says in another way
    timm_loads = architecture.stem == "imagenet" and architecture.shortcut == "B" and not dilated
    config: dict[str, Any] = {
        "architecture": "resnext50_32x4d" if timm_loads else architecture.name,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "model_args": {
            "layers": list(architecture.layers),
            "cardinality": architecture.cardinality,
            "base_width": architecture.base_width,
            "in_chans": architecture.in_channels,
            "global_pool": model.global_pool,
        },
        "pretrained_cfg": {
            "input_size": [architecture.in_channels, side, side],
            "fixed_input_size": False,
            "interpolation": settings.interpolation or "bicubic",
            "crop_pct": side / settings.resize if settings.resize else 1.0,
            "crop_mode": "center",
            "mean": [value / scale for value in settings.mean],
            "std": [value / scale for value in settings.std],
            "num_classes": model.num_classes,
            "pool_size": None,
            "first_conv": "conv1",
            "classifier": "fc",
            **({"license": model.license} if model.license else {}),
        },
    }
    if model.classes:
        config["label_names"] = model.classes
    return config


def from_pretrained(name: str | os.PathLike[str], **options: Any) -> ResNeXt:
    """The network in a folder that `save_pretrained` wrote, or of a repository "user/name" on the Hugging Face Hub.

    `options` are those of `from_checkpoint`. Raises as that does, and ModuleNotFoundError without huggingface_hub.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(name), allow_patterns=[WEIGHTS, CONFIG]))
    return from_checkpoint(folder / WEIGHTS, **options)
