"""resnext.optimize: the same logits, by every way that is at hand here."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import resnext
from resnext.inference import onednn
from resnext.inference import optimize as inference
from resnext.inference.fold import FoldedConv, allowed_error, fold
from resnext.inference.grouping import widen, widen_fastest
from resnext.inference.optimize import optimize, piece_size, prepare
from tests.conftest import randomize, relative_error

LIMITS = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}


def tiny(**options):
    torch.manual_seed(0)
    return randomize(
        resnext.ResNeXt((1, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10, **options)
    ).eval()


def images(count, size=16, channels=3, seed=1):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, x):
    return model(x)


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def eager(model):
    return optimize(model, images(4), backend="eager")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 16])
def test_batches_of_any_size(model, eager, count):
    x = images(count, seed=2)
    got = eager(x)
    assert got.shape == (count, 10)
    assert got.dtype == torch.float32
    assert count == 0 or relative_error(got, logits(model, x)) < LIMITS["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("plain", [False, True])
def test_precisions(model, precision, plain, monkeypatch):
    if plain:
        monkeypatch.setattr(onednn, "supports", lambda dtype: False)
    x = images(3)
    result = optimize(model, x, precision, "eager")
    assert (result.backend, result.precision) == ("eager", precision)
    error = relative_error(result(x), logits(model, x))
    assert error < LIMITS[precision]
    assert precision == "fp32" or error > 1e-5  # else it does not compute in it


@pytest.mark.parametrize("form", ["A", "B"])
def test_other_forms(form):
    model = tiny(form=form)
    assert relative_error(optimize(model, images(2), backend="eager")(images(2)), logits(model, images(2))) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"layers": (1, 1, 1, 1), "cardinality": 2, "replace_stride_with_dilation": (False, True, True)},
        {"layers": (2, 1, 1), "stem": "cifar", "shortcut": "C", "in_channels": 1},
        {"layers": (1, 1, 1), "stem": "cifar", "cardinality": 1, "num_classes": 0, "global_pool": "avgmax"},
        {"layers": (1, 1, 1), "stem": "cifar", "num_classes": 0, "global_pool": ""},
        {"layers": (1, 1, 1), "stem": "cifar", "drop_rate": 0.5, "drop_path_rate": 0.5},
        {"layers": (1, 1, 1), "stem": "cifar", "norm_layer": lambda c: nn.BatchNorm2d(c, eps=0.1, affine=False)},
    ],
    ids=lambda options: ",".join(options),
)
def test_options_of_the_network(options):
    model = randomize(resnext.ResNeXt(**{"cardinality": 4, "num_classes": 7, **options})).train()
    x = images(2, 16 if options.get("stem") else 32, options.get("in_channels", 3))
    got = optimize(model, x, backend="eager")(x)
    assert relative_error(got, logits(model.eval(), x)) < 1e-5


def test_the_network_stays_as_it_is():
    model = tiny().train()
    calls = []
    model.layer1.register_forward_hook(lambda *_: calls.append(1))
    model.fc.register_forward_pre_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    optimize(model, images(2), "bf16", "eager")(images(3))
    assert model.training
    assert all(module.training for module in model.modules())
    assert not calls
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one is other and one.requires_grad for one, other in zip(model.parameters(), parameters, strict=True))
    assert len(model.layer1._forward_hooks) == 1
    assert model.conv1.weight.is_contiguous()


def test_it_stays_as_it_is_when_the_network_changes(model):
    changed = tiny()
    result = optimize(changed, images(2), backend="eager")
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    assert relative_error(result(images(2)), logits(model, images(2))) < 1e-5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_inputs_of_every_kind(model, eager, mode, layout):
    expected = logits(model, images(5))
    with mode():
        x = images(5).to(memory_format=layout)
        assert relative_error(eager(x), expected) < 1e-5
        assert relative_error(eager(x.double()), expected) < 1e-5
        assert not eager(x.requires_grad_(mode is torch.enable_grad)).requires_grad
        assert torch.equal(x, images(5))


def test_same_top1_in_bf16(model, monkeypatch):
    """Of random inputs whose first two logits are further apart than the error."""
    monkeypatch.setitem(inference.PIECE, "bf16", 200)
    x = images(1000, 8, seed=3)
    result = optimize(model, x, "bf16", "eager")
    assert result.piece == 200
    expected, got = logits(model, x), result(x)
    first, second = expected.topk(2).values.unbind(1)
    clear = first - second > 2 * (got - expected).abs().amax(1)
    assert clear.sum() > 500
    same = got.argmax(1) == expected.argmax(1)
    assert same[clear].all()
    assert same.float().mean() > 0.95
    assert relative_error(got, expected) < LIMITS["bf16"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"precision": "int8"}, ValueError, "unknown precision 'int8'; expected one of fp32, bf16, fp16"),
        ({"backend": "onnx"}, ValueError, "unknown backend 'onnx'; expected one of auto, onednn, inductor, eager"),
        ({"example_inputs": images(1)[0]}, ValueError, r"\(N, 3, H, W\).*got \(3, 16, 16\)"),
        ({"example_inputs": images(1, channels=4)}, ValueError, r"\(N, 3, H, W\).*got \(1, 4, 16, 16\)"),
        ({"example_inputs": images(0)}, ValueError, "N from 1 up"),
        ({"example_inputs": images(1).to(torch.uint8)}, ValueError, "got .* of torch.uint8"),
        (
            {"example_inputs": None},
            TypeError,
            "expected a tensor as example_inputs, or a sequence of one, got NoneType",
        ),
        ({"example_inputs": images(1).numpy()}, TypeError, "got ndarray"),
        ({"example_inputs": (images(1), images(1))}, ValueError, "of one tensor, got 2 values"),
        ({"example_inputs": images(1).to("meta")}, ValueError, "on cpu, example_inputs on meta"),
        ({"example_inputs": images(1) / 0}, ValueError, "not finite"),
        ({"model": nn.Linear(1, 1)}, TypeError, "expected a resnext.ResNeXt .*got Linear"),
        ({"model": None}, TypeError, "got NoneType"),
        ({"model": tiny().to("meta")}, ValueError, "has no weights"),
    ],
)
def test_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        optimize(**{"model": model, "example_inputs": images(1), "backend": "eager", **arguments})


def test_networks_that_cannot_be_folded():
    x = images(1, 32)
    group = resnext.ResNeXt((1, 1, 1), stem="cifar", cardinality=2, norm_layer=lambda c: nn.GroupNorm(1, c))
    with pytest.raises(ValueError, match=r"bn1: expected a batch norm with running statistics.*GroupNorm"):
        optimize(group, x)
    features = resnext.create("resnext29_8x64d_typeC", features_only=True)
    with pytest.raises(TypeError, match="got ResNeXtFeatures"):
        optimize(features, x)
    altered = tiny()
    altered.layer2[0].relu = nn.LeakyReLU()
    with pytest.raises(ValueError, match="folded network differs from the given one by"):
        optimize(altered, x, backend="eager")
    altered.layer2[0] = nn.Identity()
    with pytest.raises(ValueError, match=r"layer2\.0 is a Identity"):
        optimize(altered, x, backend="eager")


def test_a_result_that_is_off(model, monkeypatch):
    monkeypatch.setitem(inference.TOLERANCE, "bf16", 1e-6)
    monkeypatch.setattr(inference, "allowed_error", lambda model, x, dtype, least: least)
    with pytest.raises(RuntimeError, match=r"the logits in bf16 differ by .*, expected at most 1e-06; give precision="):
        optimize(model, images(1), "bf16", "eager")


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        (images(1, 32), r"\(N, 3, 16, 16\) on cpu.*got \(1, 3, 32, 32\)"),
        (images(1)[0], r"got \(3, 16, 16\)"),
        (images(1).to(torch.uint8), "of torch.uint8"),
        (images(1).to("meta"), "on meta"),
    ],
)
def test_inputs_refused(eager, x, shown):
    with pytest.raises(ValueError, match=shown):
        eager(x)


def test_what_the_result_does_not_support(eager):
    assert not eager.training
    assert eager.eval() is eager
    assert not list(eager.parameters())
    with pytest.raises(RuntimeError, match="cannot be trained"):
        eager.train()
    for use in (copy.deepcopy, copy.copy, pickle.dumps, lambda module: torch.save(module, io.BytesIO())):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            use(eager)


def test_pieces():
    assert [piece_size(batch, 4) for batch in (1, 2, 3, 4, 5, 6, 7, 8, 16, 25)] == [1, 2, 3, 4, 1, 3, 1, 4, 4, 1]
    assert [piece_size(batch, 2) for batch in (1, 2, 3, 4, 16, 25)] == [1, 2, 1, 2, 2, 1]


def test_the_fold_is_exact(model):
    network, expected = fold(model, images(3))
    assert network.dtype == torch.float64
    assert expected.shape == (2, 10)
    assert relative_error(network.compute(images(2).double()), model.double()(images(2).double())) < 1e-12
    model.float()


def test_the_prepared_network_exports(model):
    network, _ = prepare(model, images(2), "fp32")
    program = torch.export.export(network, (images(2),))
    assert relative_error(program.module()(images(2)), logits(model, images(2))) < 1e-5


def test_wider_groups_are_the_same(model):
    network, expected = fold(model, images(2))
    widen_fastest(network, images(2).double(), repeats=1)
    assert relative_error(network.compute(images(2).double()), expected) < 1e-12
    # of another one: in the first all groups may have been joined
    conv = next(m for m in fold(model, images(2))[0].modules() if isinstance(m, FoldedConv) and m.groups > 1)
    x = torch.randn(2, conv.in_channels, 7, 7, dtype=torch.float64)
    for factor in (1, 2, 4):
        wide = widen(widen(conv, 1), factor) if conv.groups == 4 else None
        if wide is not None:
            assert wide.groups == 4 // factor
            assert relative_error(wide(x), conv(x)) < 1e-12
    with pytest.raises(ValueError, match="groups cannot be joined by 3"):
        widen(conv, 3)


def test_a_network_that_magnifies_rounding_is_held_against_itself(model, monkeypatch):
    monkeypatch.setitem(inference.TOLERANCE, "bf16", 1e-9)
    assert optimize(model, images(1), "bf16", "eager").precision == "bf16"
    assert allowed_error(model, images(1), torch.bfloat16, 0.5) == 0.5
    assert 1e-4 < allowed_error(model, images(1), torch.bfloat16, 0.0) < 0.1
