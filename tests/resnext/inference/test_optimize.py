"""resnext.optimize: the same logits, for every kind of network, input and batch."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import resnext
from resnext.inference import optimize as optimizing
from resnext.inference.optimize import OptimizedResNeXt, optimize, piece_sizes, prepare
from tests.helpers.networks import build, images, logits, randomize, relative_error

LIMITS = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}


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


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("onednn", [False, True])
def test_precisions(model, precision, onednn):
    x = images(3)
    with torch.backends.mkldnn.flags(enabled=onednn):
        result = optimize(model, x, precision, "eager")
    assert (result.backend, result.precision) == ("eager", precision)
    error = relative_error(result(x), logits(model, x))
    assert error < LIMITS[precision]
    assert precision == "fp32" or error > 1e-5  # else it does not compute in it


@pytest.mark.parametrize("form", ["A", "B"])
def test_other_forms(form):
    model = build(form=form).eval()
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
    model = build().train()
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
    changed = build().eval()
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


def test_same_top1_in_bf16(model):
    """Of random inputs whose first two logits are further apart than the error."""
    x = images(1000, 8, seed=3)
    expected, got = logits(model, x), optimize(model, x, "bf16", "eager")(x)
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
        ({"model": build().eval().to("meta")}, ValueError, "has no weights"),
    ],
)
def test_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        optimize(**{"model": model, "example_inputs": images(1), "backend": "eager", **arguments})


def test_a_result_that_is_off(model, monkeypatch):
    """As of a backend that computes something else."""
    monkeypatch.setitem(optimizing.backends.ON_CPU, "eager", lambda network, piece: lambda x: network(x) * 1.1)
    with pytest.raises(
        RuntimeError, match=r"the logits in bf16 differ by 1.0e-01 .*, expected at most .*; give precis"
    ):
        optimize(model, images(1), "bf16", "eager")


def test_each_piece_is_checked(model, monkeypatch):
    monkeypatch.setitem(
        optimizing.backends.ON_CPU, "eager", lambda network, piece: lambda x: network(x) * (1 if len(piece) > 1 else 2)
    )
    optimize(model, images(4), backend="eager")
    with pytest.raises(RuntimeError, match="the logits in fp32 differ"):
        optimize(model, images(5), backend="eager")


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
    assert [piece_sizes(batch, 2) for batch in (1, 2, 3, 4, 5, 7, 16)] == [
        (1,), (2,), (2, 1), (2,), (2, 1), (2, 1), (2,)
    ]  # fmt: skip
    assert [piece_sizes(batch, 4) for batch in (1, 3, 4, 5, 6, 7, 11, 12)] == [
        (1,), (3,), (4,), (4, 1), (4, 2), (4, 3), (4, 3), (4,)
    ]  # fmt: skip


@pytest.mark.parametrize("batch", [5, 7, 11])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_uneven_batches_run_in_pieces_without_filling_up(model, batch, precision, monkeypatch):
    sizes = []

    def record(network, piece):
        def run(x):
            assert x.shape == piece.shape
            sizes.append(len(x))
            return network(x)

        return run

    monkeypatch.setitem(optimizing.backends.ON_CPU, "eager", record)
    result = optimize(model, images(batch), precision, "eager")
    sizes.clear()
    assert relative_error(result(images(batch)), logits(model, images(batch))) < LIMITS[precision]
    most = {"fp32": 2, "bf16": 4}[precision]
    assert sizes == [most] * (batch // most) + [batch % most]
    for count in range(12):
        got = result(images(count, seed=count))
        assert got.shape == (count, 10)
        assert count == 0 or relative_error(got, logits(model, images(count, seed=count))) < LIMITS[precision]


def test_the_prepared_network_exports(model):
    network, _ = prepare(model, images(2), "fp32")
    program = torch.export.export(network, (images(2),))
    assert relative_error(program.module()(images(2)), logits(model, images(2))) < 1e-5


def test_on_a_gpu_fp32_is_not_tf32():
    """With tensors that only claim to be on one."""
    seen = []

    def run(x):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return torch.empty(len(x), 10)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with FakeTensorMode():
            x = torch.empty(2, 3, 16, 16, device="cuda").to(memory_format=torch.channels_last)
            assert OptimizedResNeXt({2: run}, x, "eager", "fp32")(x).shape == (2, 10)
        assert seen == [(False, False)]
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
