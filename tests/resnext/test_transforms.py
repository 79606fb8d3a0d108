"""What users do to a model: script, trace, export, compile, copy; for every form and for the stage maps."""

import copy
import pickle

import pytest
import torch

from resnext.architecture import Architecture
from tests.conftest import randomize

DYNAMIC = torch.export.Dim.DYNAMIC
CIFAR = Architecture((1, 1, 1), cardinality=2, base_width=8, stem="cifar", num_classes=10)
IMAGENET = Architecture((1, 1, 1, 1), cardinality=2, base_width=8, num_classes=10, shortcut="C")


def export(model, image):
    shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
    return torch.export.export(model, (torch.cat([image, image]),), dynamic_shapes=shapes).module()


TRANSFORMS = {
    "jit.script": lambda model, image: torch.jit.script(model),
    "fx": lambda model, image: torch.fx.symbolic_trace(model),
    "export": export,
    "deepcopy": lambda model, image: copy.deepcopy(model),
    "pickle": lambda model, image: pickle.loads(pickle.dumps(model)),
}


def build(architecture, form, features_only):
    torch.manual_seed(0)
    return randomize(architecture.build(form=form, features_only=features_only)).eval()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("features_only", [False, True], ids=["logits", "features"])
@pytest.mark.parametrize("form", "ABC")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_transformed_model_gives_the_same(transform, features_only, form):
    model = build(IMAGENET if form == "C" else CIFAR, form, features_only)
    image = torch.randn(1, 3, 64, 64)
    transformed = TRANSFORMS[transform](model, image)
    with torch.no_grad():
        for batch, height, width in ((1, 64, 64), (3, 40, 72)):
            images = torch.randn(batch, 3, height, width)
            found, expected = transformed(images), model(images)
            if not features_only:
                found, expected = [found], [expected]
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("form", "features_only"), [("A", True), ("B", True), ("C", True), ("C", False)])
def test_compiled_in_one_graph(form, features_only):
    """The compiler behind the graph is torch's; that there is one graph, without a break, is ours."""
    model = build(CIFAR, form, features_only)
    torch._dynamo.reset()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, expected = torch.compile(model, fullgraph=True, backend="eager")(images), model(images)
    if not features_only:
        found, expected = [found], [expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_compiled_in_training_with_checkpointing():
    torch._dynamo.reset()
    results = []
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for compiled in (False, True):
        torch.manual_seed(0)
        model = CIFAR.build()
        model.set_grad_checkpointing()
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        run(images).square().sum().backward()
        results.append({**{k: p.grad for k, p in model.named_parameters()}, **dict(model.named_buffers())})
    for name, value in results[0].items():
        assert torch.allclose(value, results[1][name], rtol=1e-3, atol=1e-3 * value.abs().max().item()), name
