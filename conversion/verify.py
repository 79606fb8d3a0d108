"""The proof that a conversion is right: the file's own graph, run literally, against ResNeXt with the new weights.

These are two independent readings of the file, which share only the reader. They must agree on random images. If
torchvision can be imported, its model with the same weights must agree as well.

They run in float32 first, where sums in another order differ by rounding. In a deep network of form A or B, or with
large convolution biases, the difference can exceed the tolerance. Then both run again in double precision, with the
file's values before rounding. There a right conversion agrees, and a wrong one differs as much as before.
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

TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the logits: relative error in the Euclidean norm
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
        passed: whether the two readings agree.
        reason: in one line, how large the difference is and how much is allowed.
        stages: comparison of each stage's output, in float32.
        logits: comparison of the logits, in float32.
        double: the same in double precision, which decides if float32 exceeds its tolerance; None if not needed.
        first_difference: the first stage that is not bit-equal in float32, None if all are.
        torchvision: how torchvision's model compares in the deciding precision, or why it was not compared.
        dtype, tolerance: the deciding precision, and the relative error of the logits that it allows.
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
        """The comparisons, one per line, and the verdict."""
        rows = [("", "shape", "bit-equal", "relative error", "largest error")]
        for item in [*self.stages, self.logits, *([self.double] if self.double else [])]:
            shape = "x".join(map(str, item.shape))
            equal = "yes" if item.bit_equal else "no"
            rows.append((item.name, shape, equal, f"{item.relative_error:.1e}", f"{item.max_error:.1e}"))
        verdict = f"{'proved' if self.passed else 'NOT PROVED'}: {self.reason}"
        return f"{table(rows)}\ntorchvision: {self.torchvision}\n{verdict}"


def verify(conversion: Conversion, progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Proof:
    """Run both readings of the file on the same random images, in evaluation mode.

    Passes if the logits are finite and agree within the tolerance of float32, or else of float64. torchvision's logits
    must agree too, if it has such a network. `progress` wraps the loops over the networks. Raises T7Error for a graph
    that cannot be run, such as an UnsupportedLayerError.
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
        except (RuntimeError, IndexError, ValueError) as error:  # such as shapes that do not fit
            raise conversion.model.error(f"the file's graph cannot be run: {str(error).splitlines()[0]}") from None
    expected, got = outputs[0], outputs[1]
    stages = [compare(name, got[name], expected[name]) for name in literal_stages]
    logits = "logits" if dtype == torch.float32 else "logits in double"
    versus = compare("torchvision", got["logits"], outputs[2]["logits"]) if reference is not None else None
    return _Compared(dtype, stages, compare(logits, got["logits"], expected["logits"]), versus, why_not)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The number of cores must not change the order of sums and with it the last digits of the proof."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compare(name: str, got: Tensor, expected: Tensor) -> Comparison:
    """Compare two tensors. Different shapes give an infinite error; NaN on either side gives NaN."""
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
    """The logits, and a copy of each stage's output, taken at once since later layers may work in place."""
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
    """torchvision's network with the converted weights, or None and the reason."""
    architecture = conversion.architecture
    if architecture.stem != "imagenet" or architecture.shortcut != "B" or architecture.in_channels != 3:
        return None, "not compared; it has no such network"
    try:
        from torchvision.models.resnet import Bottleneck, ResNet
    except (ImportError, RuntimeError) as error:  # RuntimeError: its compiled part does not fit this torch
        return None, f"not compared; it cannot be imported here ({str(error).splitlines()[0]})"
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
