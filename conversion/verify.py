"""The proof that a conversion is right: the file's own graph, run literally, against ResNeXt with the new weights.

Two readings of the file that share no code but the reader must agree, stage by stage, on random images; where
torchvision can be imported, its model with the same weights must agree as well.

They run in float32 first, where the same sums in another order differ by rounding. In a deep network of form A or B, or
one with large biases in its convolutions, that can exceed the tolerance. Then both run again in double precision, with
the file's values as they were before rounding: what is right agrees there, and what is wrong differs just as much.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnext.cli.command_line import table
from resnext.model import ResNeXt

from . import graph
from .mapping import Conversion

TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the logits, relative, in the Euclidean norm
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

    Attributes:
        passed: whether the two agree.
        reason: in one line, by how much they differ and how much is allowed.
        stages: the output of each stage, in float32.
        logits: the networks' output, in float32.
        double: the networks' output in double precision, run where float32 is beyond its tolerance, and decisive then.
        first_difference: the first stage that is not bit-equal in float32, None where all are.
        torchvision: how its model compares in the precision that decides, or why there is none to compare with.
        dtype, tolerance: the precision that decides, and how large a relative error of the logits it allows.
        image_size, batch, seed: of the random images.
    """

    passed: bool
    reason: str
    stages: list[Comparison]
    logits: Comparison
    double: Comparison | None
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
        for item in [*self.stages, self.logits, *([self.double] if self.double else [])]:
            shape = "x".join(map(str, item.shape))
            equal = "yes" if item.bit_equal else "no"
            rows.append((item.name, shape, equal, f"{item.relative_error:.1e}", f"{item.max_error:.1e}"))
        verdict = f"{'proved' if self.passed else 'NOT PROVED'}: {self.reason}"
        return f"{table(rows)}\ntorchvision: {self.torchvision}\n{verdict}"


def verify(conversion: Conversion, progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Proof:
    """Run both readings of the file on the same random images, in evaluation mode.

    Passes if the logits are finite and agree within the tolerance of float32, or else within that of float64; and
    torchvision's, where it has such a network, too.
    `progress` wraps the loops over the networks. Raises UnsupportedLayerError for a graph that cannot be run.
    """
    single = _compare(conversion, torch.float32, progress)
    double = None
    if not single.agrees and math.isfinite(single.logits.relative_error):
        double = _compare(conversion, torch.float64, progress)
    decisive = double or single
    passed, reason = decisive.agrees, decisive.reason()
    first = next((item for item in [*single.stages, single.logits] if not item.bit_equal), None)
    if double is not None:
        reason += f" in double precision ({single.logits.relative_error:.1e} in float32)"
    if first is not None and not passed:
        reason += f"; first to differ: {first.name}, by {first.relative_error:.1e}"
    return Proof(
        passed,
        reason,
        single.stages,
        single.logits,
        double.logits if double else None,
        first.name if first else None,
        decisive.torchvision(),
        TOLERANCES[decisive.dtype],
        str(decisive.dtype).removeprefix("torch."),
        image_size=conversion.image_size,
    )


@dataclass(frozen=True)
class _Compared:
    """The two readings in one precision, and torchvision's network where there is one."""

    dtype: torch.dtype
    stages: list[Comparison]
    logits: Comparison
    versus: Comparison | None
    why_not: str

    @property
    def agrees(self) -> bool:
        compared = [self.logits] if self.versus is None else [self.logits, self.versus]
        return all(item.relative_error <= TOLERANCES[self.dtype] for item in compared)  # false for NaN

    def reason(self) -> str:
        if self.versus is not None and not self.versus.relative_error <= TOLERANCES[self.dtype]:
            return f"torchvision's model gives other logits: {self.torchvision()}"
        allowed = TOLERANCES[self.dtype]
        return f"logits within {self.logits.relative_error:.1e} of the file's own graph; allowed {allowed:.0e}"

    def torchvision(self) -> str:
        if self.versus is None:
            return self.why_not
        return "bit-equal logits" if self.versus.bit_equal else f"logits within {self.versus.relative_error:.1e}"


def _compare(conversion: Conversion, dtype: torch.dtype, progress: Callable[[list[Any]], Iterable[Any]]) -> _Compared:
    literal = graph.to_module(conversion.model).to(dtype)
    modules = graph.modules_by_path(literal)
    literal_stages = {name: modules[path] for name, path in conversion.stages.items() if path in modules}
    if dtype == torch.float64:
        conversion = conversion.unrounded()
    converted = conversion.architecture.build_empty(form=conversion.form)
    converted.load_state_dict(conversion.state_dict, strict=True, assign=True)
    networks = [(literal, literal_stages), (converted.eval(), _stages(converted))]
    reference, why_not = _torchvision_model(conversion)
    if reference is not None:
        networks.append((reference, {}))

    size, generator = conversion.image_size, torch.Generator().manual_seed(SEED)
    images = torch.randn(BATCH, conversion.architecture.in_channels, size, size, generator=generator).to(dtype)
    with _one_thread():
        try:
            outputs = [_run(network, stages, images) for network, stages in progress(networks)]
        except (RuntimeError, IndexError, ValueError) as error:  # shapes that do not fit, say
            raise conversion.model.error(f"the file's graph cannot be run: {str(error).splitlines()[0]}") from None
    expected, got = outputs[0], outputs[1]
    stages = [compare(name, got[name], expected[name]) for name in literal_stages]
    logits = "logits" if dtype == torch.float32 else "logits in double"
    versus = compare("torchvision", got["logits"], outputs[2]["logits"]) if reference is not None else None
    return _Compared(dtype, stages, compare(logits, got["logits"], expected["logits"]), versus, why_not)


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


def _torchvision_model(conversion: Conversion) -> tuple[nn.Module | None, str]:
    """torchvision's network with the converted weights, or None and why there is none."""
    architecture = conversion.architecture
    if architecture.stem != "imagenet" or architecture.shortcut != "B" or architecture.in_channels != 3:
        return None, "not compared, it has no such network"
    try:
        from torchvision.models.resnet import Bottleneck, ResNet
    except (ImportError, RuntimeError) as error:  # RuntimeError: its compiled part does not fit this torch
        return None, f"not compared, it cannot be imported here ({str(error).splitlines()[0]})"
    with torch.device("meta"):
        model = ResNet(
            Bottleneck,
            list(architecture.layers),
            num_classes=architecture.num_classes,
            groups=architecture.cardinality,
            width_per_group=architecture.base_width,
        )
    model.load_state_dict(conversion.in_form("C").state_dict, strict=True, assign=True)
    return model.eval(), ""
