"""Where in an image a network sees a class: class activation maps (Zhou et al., arXiv 1512.04150)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnext.model import ResNeXt


def class_activation_map(model: ResNeXt, images: Tensor, classes: int | Sequence[int] | Tensor | None = None) -> Tensor:
    """How much each place in an image adds to the logit of a class. In logits; positive speaks for the class.

    Exact, because average pooling and the classifier are linear: the mean of a map over h and w, plus the class's bias
    (`model.fc.bias`), is the logit. Place (i, j) of a map stands for that part of the image when it is divided into h
    by w equal ones (7 by 7 at 224 px), though what the network has seen there reaches further.

    Computed in evaluation mode, whatever mode the model is in and stays in, and without gradients.

    Args:
        model: a network with average pooling and a classifier.
        images: (N, in_channels, H, W), preprocessed.
        classes: of which the maps are: None, each image's most probable class; a number, the same class for all; (N,),
            one for each image; (N, k), several for each image.

    Returns:
        (N, h, w); (N, k, h, w) for several classes of each image.

    Raises ValueError for a model that the sum does not hold for, and for classes that it does not have.
    """
    with _evaluation(model), torch.no_grad():
        features = model.forward_features(images)
        if classes is None:
            _check_linear(model)
            classes = model.forward_head(features).argmax(1)
        return map_features(model, features, classes)


def map_features(model: ResNeXt, features: Tensor, classes: int | Sequence[int] | Tensor) -> Tensor:
    """The maps as `class_activation_map` gives them, of features (N, C, h, w) that are computed already."""
    _check_linear(model)
    count, outputs = len(features), model.fc.out_features
    chosen = torch.as_tensor(classes, device=features.device)
    if chosen.dim() == 0:
        chosen = chosen.expand(count)
    if chosen.dim() not in (1, 2) or len(chosen) != count or chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise ValueError(
            f"classes of shape {tuple(chosen.shape)} and {chosen.dtype}; expected a whole number, one for each of the "
            f"{count} images ({count},), or several for each ({count}, k)"
        )
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < outputs:
        raise ValueError(f"classes from {int(chosen.min())} to {int(chosen.max())}; the network has 0 to {outputs - 1}")
    weights = model.fc.weight[chosen]  # (N, C) or (N, k, C)
    return torch.einsum("n...c,nchw->n...hw", weights, features)


def _check_linear(model: ResNeXt) -> None:
    """Raise ValueError unless the logits are linear in the features, which is what makes the maps exact."""
    if model.global_pool != "avg":
        raise ValueError(
            f"a class activation map is exact for global average pooling alone; this network has "
            f"global_pool={model.global_pool!r}, expected 'avg'"
        )
    if not isinstance(model.fc, nn.Linear):
        raise ValueError("a class activation map needs a classifier; this network has none (num_classes=0)")


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is back in the mode that it was in, frozen ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
