"""Importing this registers every network of `resnext.list_models()` with timm, in lower case as timm has it.

    timm.create_model("resnext50_32x4d_typec", pretrained=True, num_classes=10)

Networks are built and loaded by `resnext.create`, and take its options under timm's names. As in timm, a number of
classes other than that of the weights makes a new classifier without a warning. `features_only=True` gives timm's own
wrapper. timm resizes with its own bicubic filter, so figures differ slightly from those with `resnext.preprocess`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import resnext
from resnext.forms import convert_state_dict, find_form
from resnext.preprocess import SETTINGS
from resnext.weights.records import records
from resnext.zoo import get_architecture, parse_name

try:
    import timm.models
except ImportError as error:
    raise ImportError(f"resnext.integrations.timm needs timm: pip install timm ({error})") from error

_INPUT: dict[str, dict[str, Any]] = {
    "imagenet": {"input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 224 / 256},
    "cifar10": {"input_size": (3, 32, 32), "pool_size": (8, 8), "crop_pct": 1.0},
}
# by output stride: `replace_stride_with_dilation`
_DILATE = {32: None, 16: (False, False, True), 8: (False, True, True)}
# the fields of a configuration that tell where weights come from
_ORIGIN = ("source", "state_dict", "file", "url", "hf_hub_id", "hf_hub_filename")

__all__: list[str] = []  # timm adds the names
default_cfgs: dict[str, Any] = {}  # and looks here for their configurations


def register(name: str) -> None:
    """Make a name of `resnext.list_models()` known to timm, in lower case. Registering it again replaces it.

    Raises RuntimeError if timm has another network under that name.
    """
    key = name.lower()
    if timm.models.is_model(key) and timm.models.model_entrypoint(key).__module__ != __name__:
        raise RuntimeError(f"timm has another network called {key}, of {timm.models.model_entrypoint(key).__module__}")
    default_cfgs.update(timm.models.generate_default_cfgs({key: _configuration(name)}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns where a name is registered again
        globals()[key] = timm.models.register_model(_make_entry(name))


def _configuration(name: str) -> dict[str, Any]:
    architecture = get_architecture(name)
    mean, std = SETTINGS[architecture.data_set]
    largest = 1 if architecture.data_set == "imagenet" else 255  # pixel value, where timm's go up to 1
    configuration = {
        **_INPUT[architecture.data_set],
        "interpolation": "bicubic",
        "mean": tuple(value / largest for value in mean),
        "std": tuple(value / largest for value in std),
        "num_classes": architecture.num_classes,
        "first_conv": "conv1",
        "classifier": "fc",
        "origin_url": "https://github.com/facebookresearch/ResNeXt",
        "paper_name": "Aggregated Residual Transformations for Deep Neural Networks",
        "paper_ids": "arXiv:1611.05431",
    }
    record = records().get(architecture.name)
    if record is not None:
        configuration["url"] = (record.hosted or record.torch7).urls[0]
        configuration["license"] = record.license.lower().replace(" ", "-")
        configuration["notes"] = (f"top-1 error {record.top1_error} %: README of facebookresearch/ResNeXt",)
    return configuration


def _make_entry(name: str) -> Callable[..., nn.Module]:
    key = name.lower()
    architecture, form = parse_name(name)

    def entry(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: Any = None,
        **options: Any,
    ) -> nn.Module:
        cfg = timm.models.resolve_pretrained_cfg(key, pretrained_cfg, pretrained_cfg_overlay)
        registered = timm.models.get_pretrained_cfg(key)
        # scripts hand the registered configuration back; weights of any other origin are loaded by timm
        ours = bool(pretrained) and all(getattr(cfg, field) == getattr(registered, field) for field in _ORIGIN)
        if ours and cache_dir is not None:
            raise ValueError(
                f"cache_dir={str(cache_dir)!r} and the authors' weights cannot be combined: they are kept in "
                "torch.hub's cache; set TORCH_HOME"
            )
        return timm.models.build_model_with_cfg(
            functools.partial(_build, name, ours),
            key,
            pretrained and not ours,
            pretrained_cfg=cfg,
            feature_cfg={"out_indices": tuple(range(len(get_architecture(name).layers) + 1))},
            pretrained_filter_fn=_to_form_of,
            cache_dir=cache_dir,
            **options,
        )

    entry.__name__ = entry.__qualname__ = key
    entry.__doc__ = f"{name}: {architecture} in form {form} of figure 3 (Xie et al., arXiv 1611.05431)."
    return entry


def _build(
    name: str,
    pretrained: bool,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    output_stride: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> resnext.ResNeXt:
    """The network, from timm's options, with the attributes that timm looks for."""
    if output_stride != 32:
        if output_stride not in _DILATE or get_architecture(name).stem != "imagenet":
            expected = "8, 16 or 32, on networks for ImageNet"
            raise ValueError(f"output_stride={output_stride!r} for {name}; expected {expected}")
        if "replace_stride_with_dilation" in options:
            raise ValueError(f"output_stride={output_stride} and replace_stride_with_dilation cannot be combined")
        options["replace_stride_with_dilation"] = _DILATE[output_stride]
    if "in_channels" in options:
        raise TypeError("timm's name for in_channels is in_chans")
    # `create` would warn of a classifier that does not fit the weights, so it is replaced afterwards
    replaced = pretrained and num_classes and num_classes != get_architecture(name).num_classes
    pool = options.pop("global_pool", None) if replaced else None
    classes = None if replaced else num_classes
    model: Any = resnext.create(name, pretrained=pretrained, num_classes=classes, in_channels=in_chans, **options)
    if replaced:
        model.reset_classifier(num_classes, pool)
    model.register_load_state_dict_pre_hook(_convert_form)  # timm's load_checkpoint knows no filter of ours
    model.in_chans = in_chans
    model.feature_info = list(model.feature_info)
    return model.to(device=device, dtype=dtype)


def _convert_form(model: resnext.ResNeXt, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Put weights of another form into the form of the network, in place, before they are loaded."""
    names = [name for name in state_dict if name.startswith(prefix)]
    weights = {name.removeprefix(prefix): state_dict[name] for name in names}
    if find_form(weights) != model.form and f"{prefix}layer1.0.bn3.weight" in state_dict:
        converted = _to_form_of(weights, model)
        for name in names:
            del state_dict[name]
        state_dict.update({prefix + name: value for name, value in converted.items()})


def _to_form_of(state_dict: Mapping[str, Tensor], model: resnext.ResNeXt) -> dict[str, Tensor]:
    return convert_state_dict(state_dict, find_form(state_dict), model.form)


for _name in resnext.list_models():
    register(_name)
