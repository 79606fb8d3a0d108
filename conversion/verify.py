"""The proof that a conversion is right: the file's own graph, run literally, against ResNeXt with the new weights.

Two readings of the file that share no code but the parser must agree, stage by stage, on random images; where
torchvision can be imported, its model with the same weights must agree as well.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conversion import graph
from conversion.mapping import Conversion
from resnext.architecture import Architecture
from resnext.model import ResNeXt

LOGITS_TOLERANCE = 1e-6  # relative (norm), in float32: what another order of the same sums amounts to
FORM_A_TOLERANCE = 1e-12  # in float64: it adds up in another order in every bottleneck, and deep networks magnify that
BATCH = 2
SEED = 0


@dataclass(frozen=True)
class Comparison:
    """One tensor in two networks. `relative_error` is |a - b| / |b| in the Euclidean norm."""

    name: str
    shape: tuple[int, ...]
    bit_equal: bool
    relative_error: float
    max_error: float


@dataclass(frozen=True)
class Proof:
    """The outcome: data for the sidecar, and `table()` for people.

    `first_difference` is the first stage that is not bit-equal, None where all are. `torchvision` says how its model
    compares, or why there is none to compare with.
    """

    passed: bool
    reason: str
    stages: list[Comparison]
    logits: Comparison
    first_difference: str | None
    torchvision: str
    tolerance: float
    dtype: str
    image_size: int = 224
    batch: int = BATCH
    seed: int = SEED

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def table(self) -> str:
        """What was compared, a line each."""
        rows = [("", "shape", "bit-equal", "relative error", "largest error")]
        for item in [*self.stages, self.logits]:
            shape = "x".join(map(str, item.shape))
            equal = "yes" if item.bit_equal else "no"
            rows.append((item.name, shape, equal, f"{item.relative_error:.1e}", f"{item.max_error:.1e}"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append(f"torchvision: {self.torchvision}")
        lines.append(f"{'proved' if self.passed else 'NOT PROVED'}: {self.reason}")
        return "\n".join(lines)


def verify(conversion: Conversion, progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Proof:
    """Run both readings of the file on the same random images, in evaluation mode and float32; form A in float64.

    Passes if the logits agree within LOGITS_TOLERANCE (form A: FORM_A_TOLERANCE) and are finite, and torchvision's,
    where it is there, too.
    `progress` wraps the loop over the networks. Raises UnsupportedLayerError for a graph that cannot be run.
    """
    dtype, tolerance = torch.float32, LOGITS_TOLERANCE
    if conversion.form == "A":
        dtype, tolerance = torch.float64, FORM_A_TOLERANCE
    literal = graph.to_module(conversion.model).to(dtype)
    converted = conversion.architecture.build_empty(form=conversion.form)
    converted.load_state_dict(conversion.state_dict, strict=True, assign=True)
    converted = converted.to(dtype).eval()
    reference, why_not = _torchvision_model(conversion.architecture, conversion.in_form("C").state_dict)

    size = conversion.image_size
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(BATCH, conversion.architecture.in_channels, size, size, generator=generator).to(dtype)
    paths = {path: name for name, path in conversion.stages.items()}
    literal_stages = {paths[path]: module for path, module in graph.modules_by_path(literal).items() if path in paths}
    networks = [(literal, literal_stages), (converted, _stages(converted))]
    if reference is not None:
        networks.append((reference.to(dtype), {}))
    with _one_thread():
        try:
            outputs = [_run(network, stages, images) for network, stages in progress(networks)]
        except RuntimeError as error:  # shapes that do not fit, say
            raise conversion.model.error(f"the file's graph cannot be run: {str(error).splitlines()[0]}") from None

    expected, got = outputs[0], outputs[1]
    stages = [compare(name, got[name], expected[name]) for name in conversion.stages]
    logits = compare("logits", got["logits"], expected["logits"])
    first = next((item.name for item in [*stages, logits] if not item.bit_equal), None)
    passed = logits.relative_error <= tolerance  # false for NaN
    reason = f"logits within {logits.relative_error:.1e} of the file's own graph; allowed {tolerance:.0e}"
    if reference is not None:
        versus = compare("torchvision", got["logits"], outputs[2]["logits"])
        why_not = "bit-equal logits" if versus.bit_equal else f"logits within {versus.relative_error:.1e}"
        if not versus.relative_error <= tolerance:
            passed, reason = False, f"torchvision's model gives other logits: {why_not}"
    if first is not None and not passed:
        worst = next(item for item in [*stages, logits] if item.name == first)
        reason += f"; first to differ: {first}, by {worst.relative_error:.1e}"
    return Proof(
        passed, reason, stages, logits, first, why_not, tolerance, str(dtype).removeprefix("torch."), image_size=size
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The order of sums, and so the last digits of the proof, must not depend on how many cores there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compare(name: str, got: Tensor, expected: Tensor) -> Comparison:
    """Compare two tensors; other shapes count as an infinite error, NaN on either side as one that is NaN."""
    shape = tuple(got.shape)
    if shape != tuple(expected.shape):
        return Comparison(name, shape, False, math.inf, math.inf)
    difference = got.double() - expected.double()
    norm = expected.double().norm().item()
    error = difference.norm().item()
    relative = error / norm if norm else (0.0 if error == 0 else math.inf)
    return Comparison(name, shape, torch.equal(got, expected), relative, difference.abs().max().item())


def _stages(network: ResNeXt) -> dict[str, nn.Module]:
    children = dict(network.named_children())
    stages = {name: children[name] for name in children if name.startswith("layer")}
    return {"stem": network.maxpool, **stages}


def _run(network: nn.Module, stages: dict[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Logits, and the output of each stage as it was when the stage gave it (later layers may work in place)."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            outputs[name] = output.clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in stages.items()]
    try:
        with torch.inference_mode():
            outputs["logits"] = network(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _torchvision_model(architecture: Architecture, state_dict: dict[str, Tensor]) -> tuple[nn.Module | None, str]:
    """torchvision's network with the converted weights, or None and why there is none."""
    if architecture.stem != "imagenet" or architecture.shortcut != "B" or architecture.in_channels != 3:
        return None, "not compared, it has no such network"
    try:
        from torchvision.models.resnet import Bottleneck, ResNet
    except (ImportError, RuntimeError) as error:  # RuntimeError: its compiled part does not fit this torch
        return None, f"not compared, it cannot be imported here ({str(error).splitlines()[0]})"
    model = ResNet(
        Bottleneck,
        list(architecture.layers),
        num_classes=architecture.num_classes,
        groups=architecture.cardinality,
        width_per_group=architecture.base_width,
    )
    model.load_state_dict(state_dict, strict=True)
    return model.eval(), ""
