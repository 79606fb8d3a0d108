"""Where in an image a network sees a class: class activation maps (Zhou et al., arXiv 1512.04150)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnext.model import ResNeXt


def class_activation_map(model: ResNeXt, images: Tensor, classes: int | Sequence[int] | Tensor | None = None) -> Tensor:
    """How much each place in an image adds to the logit of a class: in logits, positive where it speaks for the class.

    This is exact, because average pooling and the classifier are linear: the mean of a map over h and w, plus the bias
    of the class (`model.fc.bias`), is the logit. Place (i, j) of a map stands for one part of the image, divided into h
    by w equal parts (7 by 7 at 224 px), although the network sees more than that part there.

    Computed in evaluation mode and without gradients; the model keeps its mode.

    Args:
        model: a network with average pooling and a classifier.
        images: (N, in_channels, H, W), preprocessed.
        classes: the classes to map. None: the most probable class of each image; a number: the same class for all;
            (N,): one for each image; (N, k): several for each image.

    Returns:
        (N, h, w); (N, k, h, w) for several classes of each image.

    Raises ValueError for a model whose logits are not such a sum, and for classes that it does not have.
    """
    with _evaluation(model), torch.no_grad():
        features = model.forward_features(images)
        if classes is None:
            _check_linear(model)
            classes = model.forward_head(features).argmax(1)
        return map_features(model, features, classes)


def map_features(model: ResNeXt, features: Tensor, classes: int | Sequence[int] | Tensor) -> Tensor:
    """The maps of `class_activation_map`, from features (N, C, h, w) that have been computed."""
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
            f"a class activation map is exact only for global average pooling; this network has "
            f"global_pool={model.global_pool!r}, expected 'avg'"
        )
    if not isinstance(model.fc, nn.Linear):
        raise ValueError("a class activation map needs a classifier; this network has none (num_classes=0)")


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is back in its own mode, frozen ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
