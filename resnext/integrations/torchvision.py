"""Importing this registers every network of `resnext.list_models()` with torchvision, in torchvision's ways.

    torchvision.models.get_model("resnext50_32x4d_typeC", weights="DEFAULT")

- In torchvision's registry the names are in lower case. `torchvision.models` and `torchvision.models.resnet`, where its
  FPN helper looks, have the builders both in lower case and as `resnext` spells them.
- `torchvision.models.ResNeXt50_32X4D_TypeC_Weights.IMAGENET1K_V1` are the authors' weights for form C, and so on; where
  none were published, the enum is empty.
- `weights=` cannot be combined with another number of classes, as in torchvision's own builders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import resnext
from resnext.forms import convert_state_dict, find_form
from resnext.weights.files import read_state_dict
from resnext.weights.pretrained import resolve_pretrained
from resnext.weights.records import Record, get_record, records
from resnext.zoo import parse_name

try:
    import torchvision
    from torchvision.models._api import BUILTIN_MODELS, Weights, WeightsEnum, register_model
except ImportError as error:
    raise ImportError(
        f"resnext.integrations.torchvision needs torchvision: pip install torchvision ({error})"
    ) from error


def transforms(*, antialias: bool = True) -> nn.Module:
    """The authors' preprocessing for ImageNet: a PIL image or a uint8 tensor (3, H, W) -> (3, 224, 224).

    torchvision's scripts set `antialias`, which changes nothing here.
    """
    from resnext.preprocess import get_preprocess

    return get_preprocess("imagenet")


class ResNeXtWeights(WeightsEnum):
    """The authors' weights of a network in torchvision's way; `meta` says where the figures come from."""

    def get_state_dict(self, *, progress: bool = True, check_hash: bool = True) -> dict[str, Tensor]:
        """The state_dict in the form of the network: from the cache, else downloaded, as `pretrained=True` does it.

        Args:
            progress: show a progress bar where something is downloaded.
            check_hash: torchvision passes it; downloads are always checked against their full SHA-256.

        Raises WeightsError, which lists what was tried.
        """
        state_dict = read_state_dict(resolve_pretrained(self.meta["architecture"], progress=progress), published=True)
        return convert_state_dict(state_dict, find_form(state_dict), self.meta["form"])


def register(name: str) -> None:
    """Make a name of `resnext.list_models()` known to torchvision. Registering it again replaces it.

    Raises RuntimeError if torchvision has another network under that name.
    """
    key = name.lower()
    if key in BUILTIN_MODELS and BUILTIN_MODELS[key].__module__ != __name__:
        raise RuntimeError(f"torchvision has another network called {key}, of {BUILTIN_MODELS[key].__module__}")
    weights = _make_weights(name)
    builder = _make_builder(name, weights)
    BUILTIN_MODELS.pop(key, None)
    register_model(key)(builder)
    globals()[weights.__name__] = weights  # where pickle looks for it
    setattr(torchvision.models, weights.__name__, weights)  # where get_weight does
    for module in (torchvision.models, torchvision.models.resnet):
        setattr(module, key, builder)
        setattr(module, name, builder)


def _make_weights(name: str) -> type[ResNeXtWeights]:
    architecture, form = parse_name(name)
    members = {}
    if architecture in records():
        record = get_record(architecture)
        members["IMAGENET1K_V1"] = Weights(
            url=(record.hosted or record.torch7).urls[0],
            transforms=transforms,
            meta={
                "architecture": architecture,
                "form": form,
                "num_params": record.parameters,
                "min_size": (32, 32),
                # ImageNet's classes in the order of their WordNet ids, as ours
                "categories": torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"],
                "recipe": "https://github.com/facebookresearch/ResNeXt",
                "license": record.license,
                "license_url": record.license_url,
                "_metrics": {
                    "ImageNet-1K": {"acc@1": _accuracy(record.top1_error), "acc@5": _accuracy(record.top5_error)}
                },
                "_ops": round(record.multiply_adds / 1e9, 3),
                "_file_size": _file_size(record),
                "_docs": "The authors' weights, converted from Torch7. The accuracy is what the README of "
                f"facebookresearch/ResNeXt reports: top-1 error {record.top1_error} %, single 224 px crop. "
                + ("acc@5 is None: it reports no top-5 error. " if record.top5_error is None else "")
                + "_file_size is that of the file at `url`"
                + ("." if record.hosted else ", the authors' Torch7 file, as rounded there."),
            },
        )
        members["DEFAULT"] = members["IMAGENET1K_V1"]
    size = architecture.removeprefix("resnext").upper()
    return ResNeXtWeights(f"ResNeXt{size}_Type{form}_Weights", members, module=__name__)


def _accuracy(error: float | None) -> float | None:
    return None if error is None else round(100 - error, 3)


def _file_size(record: Record) -> float:
    """MiB of the file that is downloaded, torchvision's unit; the authors state theirs as `191 MB`, and mean MiB."""
    return round(record.hosted.size / 2**20, 3) if record.hosted else float(record.torch7.size.split()[0])


def _make_builder(name: str, weights_enum: type[ResNeXtWeights]) -> Callable[..., nn.Module]:
    architecture, form = parse_name(name)

    def builder(*, weights: Any = None, progress: bool = True, **options: Any) -> resnext.ResNeXt:
        if weights is None:
            return resnext.create(name, progress=progress, **options)
        get_record(architecture)  # raises, and says which networks have weights, where this one has none
        if isinstance(weights, str) and weights.rpartition(".")[2] not in weights_enum.__members__:
            raise ValueError(
                f"unknown weights {weights!r}; expected one of {', '.join(weights_enum.__members__)} "
                "(a file: resnext.create(name, weights=PATH))"
            )
        for option in ("pretrained", "zero_init_residual"):
            if options.get(option):
                raise ValueError(f"weights={weights} and {option}=True cannot be combined; leave one of them out")
        classes = len(weights_enum.verify(weights).meta["categories"])
        if options.get("num_classes") not in (None, 0, classes):
            raise ValueError(
                f"weights={weights} and num_classes={options['num_classes']} cannot be combined: the weights have "
                f"{classes} classes; leave num_classes out and call reset_classifier({options['num_classes']}) after"
            )
        return resnext.create(name, pretrained=True, progress=progress, **options)

    builder.__name__ = builder.__qualname__ = name.lower()
    builder.__annotations__["weights"] = weights_enum | None  # where torchvision finds the enum
    builder.__doc__ = f"""{name}: {architecture} in form {form} of figure 3 (Xie et al., arXiv 1611.05431).

        Args:
            weights (:class:`{weights_enum.__name__}`, optional): a member, or its name; default: none.
            progress (bool): show a progress bar where something is downloaded.
            options: those of `resnext.create`: num_classes, norm_layer, replace_stride_with_dilation, ...

        Raises:
            ValueError: options that cannot be combined.
            resnext.WeightsError: weights that are not available.
        """
    return builder


for _name in resnext.list_models():
    register(_name)
