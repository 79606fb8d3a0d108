"""The network: torchvision's twin bit for bit, and whatever users do to a model."""

import copy
import functools
import io
import json
import math
import pickle

import pytest
import torch
from torch import nn

from resnext.architecture import Architecture
from resnext.forms import convert_state_dict
from resnext.model import DropPath, ResNeXt, ResNeXtFeatures, block_width
from tests.fixtures import record_model
from tests.helpers.networks import randomize, relative_error
from tests.helpers.recorded import FIXTURES

CIFAR = Architecture((2, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)
IMAGENET = Architecture((1, 2, 1, 1), cardinality=2, base_width=4, num_classes=10, shortcut="C")
SMALL = Architecture((1, 1, 1), cardinality=2, base_width=8, stem="cifar", num_classes=10)
DYNAMIC = torch.export.Dim.DYNAMIC


def build(architecture=CIFAR, **options):
    torch.manual_seed(0)
    return randomize(architecture.build(**options)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def same(found, expected):
    found, expected = ([value] if isinstance(value, torch.Tensor) else value for value in (found, expected))
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- what it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", record_model.NETWORKS)
def test_names_initial_weights_graph_and_outputs_are_those_recorded(name):
    recorded = json.loads((FIXTURES / "model.json").read_text())[name]
    found = json.loads(json.dumps(record_model.record(*record_model.NETWORKS[name])))
    for mode in ("evaluation", "training"):
        values, expected = found.pop(mode), recorded.pop(mode)
        assert {key: pytest.approx(value, rel=1e-9) for key, value in expected.items()} == values
    assert found == recorded


@pytest.mark.parametrize("training", [False, True])
def test_bit_equal_to_torchvision_with_the_same_weights_both_ways(torchvision, training):
    theirs = randomize(torchvision.models.resnext50_32x4d())
    ours = ResNeXt()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(ours.train(training)(images), theirs.train(training)(images))
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(("planes", "base_width", "width"), [(64, 4, 4), (512, 4, 32), (64, 14, 14), (96, 3, 4)])
def test_width_is_floored(planes, base_width, width):
    assert block_width(planes, base_width) == width == math.floor(planes * base_width / 64)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
@pytest.mark.parametrize("architecture", [IMAGENET, CIFAR], ids=["imagenet", "cifar"])
def test_any_size_from_32_px_up(architecture, size):
    with torch.no_grad():
        assert build(architecture)(torch.zeros(2, 3, *size)).shape == (2, 10)


def test_shortcut_c_is_a_convolution_in_every_block():
    for shortcut, in_every_block in (("B", False), ("C", True)):
        model = ResNeXt((2, 2, 2), cardinality=4, base_width=8, stem="cifar", shortcut=shortcut)
        for stage in (model.layer1, model.layer2, model.layer3):
            assert stage[0].downsample is not None
            assert (stage[1].downsample is not None) == in_every_block


@pytest.mark.parametrize("dilate", [(False, True, True), (False, False, True), (True, False, False)])
def test_dilation_is_torchvisions(torchvision, dilate):
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    theirs = ResNet(
        Bottleneck, [1, 2, 2, 2], 10, groups=2, width_per_group=4, replace_stride_with_dilation=list(dilate)
    )
    ours = ResNeXt((1, 2, 2, 2), cardinality=2, base_width=4, num_classes=10, replace_stride_with_dilation=dilate)
    ours.load_state_dict(randomize(theirs).state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.eval()(image), theirs.eval()(image))
    last = ours.feature_info.reduction()[-1]
    assert last == 32 // 2 ** sum(dilate)
    assert ours.forward_features(image).shape[-1] == 64 // last


def test_gradients_reach_every_parameter(images):
    model = build().train()
    model(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- initial weights -------------------------------------------------------------------------------------------------


def test_initialisation_is_the_official_one():
    torch.manual_seed(0)
    model = ResNeXt()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(module.weight.mean().item()) < 0.05 * expected, name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
    assert (model.fc.bias == 0).all()
    assert model.fc.weight.abs().max() <= 1 / math.sqrt(2048)


def test_weights_of_an_emptied_model_can_be_initialised_again():
    model = build()
    for value in model.state_dict().values():
        value.fill_(7)
    model.reset_parameters()
    assert not any((value == 7).all() for value in model.state_dict().values())
    assert (model.layer1[0].bn2.weight == 1).all()


@pytest.mark.parametrize("form", "ABC")
def test_zero_init_residual_starts_with_the_shortcuts_and_again_after_a_reset(form):
    model = CIFAR.build(zero_init_residual=True, form=form).eval()
    x = torch.rand(1, 256, 4, 4)
    assert torch.equal(model.layer1[1](x), x)
    randomize(model).reset_parameters()
    assert torch.equal(model.layer1[1](x), x)


def test_built_on_meta_then_assigned_is_ready(images):
    model, empty = build(), CIFAR.build_empty()
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(empty.eval()(images), model(images))
    assert all(p.requires_grad for p in empty.parameters())


# --- weights of another form, and parts of a state_dict --------------------------------------------------------------


@pytest.mark.parametrize("form", "AB")
def test_parts_of_a_state_dict_are_loaded(form):
    """Names that say nothing of the form are not taken for those of form C."""
    model, other = build(form=form), build(form=form)
    part = {name: value + 1 for name, value in other.state_dict().items() if name.startswith("layer1.0.bn3.")}
    left = model.load_state_dict(part, strict=False)
    assert not left.unexpected_keys
    assert torch.equal(model.layer1[0].bn3.weight, part["layer1.0.bn3.weight"])
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(part)


@pytest.mark.parametrize(("given", "wanted"), ["AC", "CA", "AB", "BC"])
def test_loading_weights_of_another_form_says_what_to_do(given, wanted):
    model, state_dict = build(form=wanted), build(form=given).state_dict()
    message = rf"of form {given}, this network is of form {wanted}: .*convert_state_dict\(.*'{given}', '{wanted}'\)"
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(state_dict)
    model.load_state_dict(convert_state_dict(state_dict, given, wanted))


def test_what_does_not_fit_for_another_reason_is_told_as_torch_tells_it():
    model = build()
    with pytest.raises(RuntimeError, match=r"size mismatch for fc\.weight"):
        model.load_state_dict({**model.state_dict(), "fc.weight": torch.zeros(3, 1)})


# --- the head --------------------------------------------------------------------------------------------------------


def test_forward_is_features_then_head(images):
    model = build()
    with torch.no_grad():
        features = model.forward_features(images)
        assert features.shape == (2, model.num_features, 8, 8)
        assert torch.equal(model.forward_head(features), model(images))
        assert torch.equal(model.get_classifier()(model.forward_head(features, pre_logits=True)), model(images))


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
def test_global_pool(images, pool):
    model = build(global_pool=pool)
    with torch.no_grad():
        maps = model.forward_features(images)
        mean, largest = maps.mean((2, 3)), maps.amax((2, 3))
        expected = {"avg": mean, "max": largest, "avgmax": (mean + largest) / 2}[pool]
        assert relative_error(model.forward_head(maps, pre_logits=True), expected) < 1e-6
        assert model(images).shape == (2, 10)


def test_reset_classifier(images):
    model = build(drop_rate=0.25)
    body = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("fc.")}
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)
    assert model.num_classes == 7
    assert (model.fc.bias == 0).all()
    assert model.fc.weight.abs().max() <= 1 / math.sqrt(1024)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in body.items())
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 1024, 8, 8)
    with pytest.raises(ValueError, match="global_pool='' and num_classes=3 cannot be combined"):
        model.reset_classifier(3)
    assert model.num_classes == 0
    model.double().reset_classifier(3, "max")
    assert model(images.double()).shape == (2, 3)
    assert (model.fc.training, model.dropout.p) == (False, 0.25)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "num_classes -1; expected a whole number, 0 or more"),
        (("5",), TypeError, "num_classes '5' is of type str; expected a whole number"),
        ((3, "median"), ValueError, "global_pool 'median'; expected one of avg, max, avgmax, catavgmax, ''"),
    ],
)
def test_reset_classifier_refuses(arguments, error, message):
    model = build()
    with pytest.raises(error, match=message):
        model.reset_classifier(*arguments)
    assert model.fc.out_features == 10
    with pytest.raises(ValueError, match="features_only=True and num_classes=5 cannot be combined"):
        build(features_only=True).reset_classifier(5)


# --- normalisation ---------------------------------------------------------------------------------------------------


def test_group_norm_in_form_c():
    model = IMAGENET.build(norm_layer=functools.partial(nn.GroupNorm, 4))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def layer_norm(channels):
    return nn.GroupNorm(1, channels)


@pytest.mark.parametrize("form", "AB")
@pytest.mark.parametrize("norm_layer", [layer_norm, nn.LocalResponseNorm, functools.partial(nn.GroupNorm, 4)])
def test_a_norm_across_channels_would_make_the_forms_different_functions(form, norm_layer):
    with pytest.raises(ValueError, match=f"form='{form}' and norm_layer=.* cannot be combined: .* use form='C'"):
        CIFAR.build(form=form, norm_layer=norm_layer)
    with pytest.raises(ValueError, match="cannot be combined"):
        CIFAR.build_empty(form=form, norm_layer=norm_layer)


def instance_norm(channels):
    return nn.InstanceNorm2d(channels, affine=True)


def by_channel(channels):
    return nn.GroupNorm(channels, channels)


@pytest.mark.parametrize("norm_layer", [instance_norm, by_channel, nn.Identity, nn.SyncBatchNorm])
def test_a_norm_of_each_channel_by_itself_makes_the_same_function(norm_layer, images):
    outputs = []
    for form in "CAB":
        torch.manual_seed(0)
        model = CIFAR.build(form=form, norm_layer=norm_layer).double().eval()
        with torch.no_grad():
            outputs.append(model(images.double()))
    assert relative_error(outputs[1], outputs[0]) < 1e-10
    assert relative_error(outputs[2], outputs[0]) < 1e-10


def test_zero_init_residual_needs_a_weight():
    with pytest.raises(ValueError, match="zero_init_residual=True and norm_layer=InstanceNorm2d cannot be combined"):
        CIFAR.build(zero_init_residual=True, norm_layer=nn.InstanceNorm2d)


# --- training --------------------------------------------------------------------------------------------------------


def test_drop_rate_is_ahead_of_the_classifier(images):
    model = CIFAR.build(drop_rate=0.5)
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    assert (pooled == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(model.eval()(images), model(images))


def test_drop_path_rates_rise_linearly_to_the_last_block():
    rates = [m.rate for m in CIFAR.build(drop_path_rate=0.3).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_drop_path_zeroes_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    out = layer(torch.ones(4000, 2, 1, 1))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(layer.eval()(out), out)


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("form", ["A", "C"])
def test_checkpointing_changes_neither_gradients_nor_statistics(images, form, features_only):
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = CIFAR.build(form=form, drop_path_rate=0.4, features_only=features_only)
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        out = model(images)
        (out[-1] if features_only else out).square().sum().backward()
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        results.append({**buffers, **{name: p.grad for name, p in model.named_parameters()}})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert results[0]["bn1.num_batches_tracked"] == results[0]["layer1.0.bn3.num_batches_tracked"] == 1


def test_checkpointing_takes_a_second_backward(images):
    """Two losses over one forward pass."""
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = CIFAR.build()
        model.set_grad_checkpointing(enable)
        loss = model(images).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        results.append({**dict(model.named_buffers()), **{name: p.grad for name, p in model.named_parameters()}})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_checkpointing_keeps_less_and_can_be_switched_off_again(images):
    model = CIFAR.build()

    def kept(*enable):
        sizes = []
        model.set_grad_checkpointing(*enable)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()), lambda _: None):
            model(images)
        return sum(sizes)

    without = kept(False)
    assert kept() < without / 2
    assert kept(False) == without


# --- stage maps for detectors and segmenters -------------------------------------------------------------------------


def test_maps_are_those_of_the_network(image):
    whole = build(IMAGENET)
    model = ResNeXtFeatures(IMAGENET.layers, cardinality=2, base_width=4, shortcut="C").eval()
    assert model.load_state_dict(whole.state_dict(), strict=False).unexpected_keys == ["fc.weight", "fc.bias"]
    with torch.no_grad():
        maps = model(image)
        assert torch.equal(maps[4], whole.forward_features(image))
        assert torch.equal(maps[0], whole.relu(whole.bn1(whole.conv1(image))))
        assert torch.equal(maps[1], whole.layer1(whole.maxpool(maps[0])))
    assert len(maps) == 5


@pytest.mark.parametrize("architecture", [IMAGENET, CIFAR], ids=["imagenet", "cifar"])
@pytest.mark.parametrize("dilate", [False, True])
def test_feature_info_tells_channels_and_reduction(architecture, dilate, image):
    options = {"replace_stride_with_dilation": (False,) * (len(architecture.layers) - 2) + (True,)} if dilate else {}
    model = architecture.build(features_only=True, **options)
    maps = model(image)
    info = model.feature_info
    assert [m.shape[1] for m in maps] == info.channels() == [entry["num_chs"] for entry in info]
    assert [96 // m.shape[2] for m in maps] == info.reduction() == [entry["reduction"] for entry in info]
    assert info.channels() == [64, 256, 512, 1024, 2048][: len(architecture.layers) + 1]
    assert info.module_name() == ["relu", "layer1", "layer2", "layer3", "layer4"][: len(architecture.layers) + 1]
    expected = [2, 4, 8, 16, 32] if architecture is IMAGENET else [1, 1, 2, 4]
    assert info.reduction() == (expected[:-1] + expected[-2:-1] if dilate else expected)


@pytest.mark.parametrize(
    ("indices", "found"), [((1, 3), [1, 3]), ((3, 1), [1, 3]), ((-1,), [4]), ((0,), [0]), ([2, 2, -3], [2])]
)
def test_out_indices(indices, found, image):
    model = IMAGENET.build(features_only=True, out_indices=indices)
    assert [m.shape[1] for m in model(image)] == [[64, 256, 512, 1024, 2048][index] for index in found]
    assert model.feature_info.out_indices == tuple(found)
    assert len(model.feature_info) == len(found)
    assert model.feature_info[0]["index"] == found[0]


def test_stages_that_nobody_asks_for_are_left_out():
    model = IMAGENET.build(features_only=True, out_indices=(1, 2))
    assert not any(name.startswith(("layer3", "layer4", "fc")) for name in model.state_dict())


# --- images ----------------------------------------------------------------------------------------------------------


def test_transform_is_the_module_of_preprocess(images):
    model = build(CIFAR)
    transform = model.transform()
    pixels = (images * 50 + 128).clamp(0, 255).byte()
    assert isinstance(transform, nn.Module)
    assert transform is not model.transform()
    assert torch.equal(transform(pixels), model.preprocess(pixels))
    assert torch.equal(model.preprocess([pixels[0], pixels[1].permute(1, 2, 0).numpy()]), transform(pixels))
    assert torch.equal(pickle.loads(pickle.dumps(transform))(pixels[0]), transform(pixels)[0])


def test_no_transform_for_other_channels():
    model = ResNeXt((1, 1, 1, 1), in_channels=1)
    for use in (model.transform, lambda: model.preprocess(torch.zeros(1, 32, 32, dtype=torch.uint8))):
        with pytest.raises(ValueError, match="takes 1 channels, and the authors' preprocessing gives 3: prepare its"):
            use()


# --- script, trace, export, compile, copy ----------------------------------------------------------------------------


def export(model):
    shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
    return torch.export.export(model, (torch.zeros(2, 3, 64, 64),), dynamic_shapes=shapes).module()


def save_and_load(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def of_graph(transform):
    return lambda model: transform(torch.fx.symbolic_trace(model))


TRANSFORMS = {
    "script": torch.jit.script,
    "fx": torch.fx.symbolic_trace,
    "fx, scripted": of_graph(torch.jit.script),
    "fx, pickled": of_graph(lambda model: pickle.loads(pickle.dumps(model))),
    "fx, saved": of_graph(save_and_load),
    "deepcopy": copy.deepcopy,
    "save": save_and_load,
}
EVERY = [(name, form, only) for name in TRANSFORMS for form in "ABC" for only in (False, True)]
EXPORTED = [("export", form, only) for form, only in (("A", False), ("B", True), ("C", False), ("C", True))]


@pytest.mark.parametrize(("transform", "form", "features_only"), EVERY + EXPORTED)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:The TorchScript type system")
def test_transformed_model_gives_the_same(transform, form, features_only):
    model = build(IMAGENET if form == "C" else SMALL, form=form, features_only=features_only)
    transformed = {**TRANSFORMS, "export": export}[transform](model)
    with torch.no_grad():
        for batch, height, width in ((1, 64, 64), (3, 40, 72)):
            images = torch.randn(batch, 3, height, width)
            assert same(transformed(images), model(images))


@pytest.mark.parametrize("form", "ABC")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:The TorchScript type system")
def test_torchvisions_extractor_scripted_forward_and_backward(torchvision, form, images):
    """`test_jit_forward_backward` of torchvision's test_backbone_utils.py."""
    from torchvision.models.feature_extraction import create_feature_extractor

    model = build(SMALL, form=form).train()
    nodes = {"layer1": "first", "layer3.0.relu": "inside", "flatten": "pooled"}
    returned = {"train_return_nodes": nodes, "eval_return_nodes": nodes}
    extractor = torch.jit.script(create_feature_extractor(copy.deepcopy(model), **returned))
    found = extractor(images)
    expected = create_feature_extractor(model, **returned)(images)
    assert set(found) == set(nodes.values())
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    sum(value.mean() for value in found.values()).backward()
    assert extractor.conv1.weight.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_quantised_by_fx(images):
    """What FX quantisation makes can be scripted and saved, and is about the same function."""
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from torch.ao.quantization import get_default_qconfig_mapping

    if not torch.backends.quantized.supported_engines[1:]:
        pytest.skip("this build of torch has no engine for quantised networks")
    model = build()
    prepared = quantize_fx.prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping(), (images,))
    with torch.no_grad():
        prepared(images)
        quantised = quantize_fx.convert_fx(prepared)
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(quantised), file)
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(images), quantised(images))
        assert relative_error(quantised(images), model(images)) < 0.1


@pytest.mark.parametrize(("form", "features_only"), [("A", True), ("B", True), ("C", True), ("C", False)])
def test_compiled_in_one_graph(form, features_only, images):
    """The compiler behind the graph is torch's; that there is one graph, without a break, is ours."""
    model = build(SMALL, form=form, features_only=features_only)
    torch.compiler.reset()
    with torch.no_grad():
        assert same(torch.compile(model, fullgraph=True, backend="eager")(images), model(images))


@pytest.mark.slow
def test_compiled_in_training_with_checkpointing(images):
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = SMALL.build()
        model.set_grad_checkpointing()
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        run(images).square().sum().backward()
        results.append({**{k: p.grad for k, p in model.named_parameters()}, **dict(model.named_buffers())})
    for name, value in results[0].items():
        assert torch.allclose(value, results[1][name], rtol=1e-3, atol=1e-3 * value.abs().max().item()), name


# --- what cannot be built --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stem": "mnist"}, "stem 'mnist'; expected one of imagenet, cifar"),
     ({"shortcut": "A"}, "shortcut 'A'; expected one of B, C"),
     ({"form": ""}, "form ''; expected one of A, B, C"),
     ({"layers": (1, 1, 1)}, r"layers \(1, 1, 1\); expected the number of bottlenecks \(1 or more\) of 4 stages"),
     ({"layers": (1, 1), "stem": "cifar"}, "of 3 or 4 stages"),
     ({"layers": (1, 0, 1, 1)}, r"layers \(1, 0, 1, 1\)"),
     ({"cardinality": 0}, "cardinality 0; expected a whole number, 1 or more"),
     ({"num_classes": -1}, "num_classes -1; expected a whole number, 0 or more"),
     ({"in_channels": 0}, "in_channels 0"),
     ({"base_width": 0}, "base_width 0"),
     ({"drop_rate": 1}, "drop_rate 1; expected a probability"),
     ({"drop_path_rate": -0.1}, "drop_path_rate -0.1; expected a probability"),
     ({"global_pool": "median"}, "global_pool 'median'; expected one of avg, max, avgmax, catavgmax, ''"),
     ({"global_pool": ""}, "global_pool='' and num_classes=1000 cannot be combined"),
     ({"global_pool": "", "num_classes": 0, "drop_rate": 0.5}, "global_pool='' and drop_rate=0.5 cannot be combined"),
     ({"replace_stride_with_dilation": (True, True)}, r"\(True, True\); expected 3 booleans, one for each stage after"),
     ({"replace_stride_with_dilation": (0, 1, 1)}, r"\(0, 1, 1\); expected 3 booleans")],
)  # fmt: skip
def test_impossible_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResNeXt(**{"layers": (1, 1, 1, 1), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_classes": "10"}, "num_classes '10' is of type str; expected a whole number, 0 or more"),
     ({"num_classes": 2.5}, "num_classes 2.5 is of type float; expected a whole number"),
     ({"num_classes": True}, "num_classes True is of type bool; expected a whole number"),
     ({"form": None}, "form None is of type NoneType; expected one of A, B, C"),
     ({"norm_layer": "groupnorm"}, "norm_layer 'groupnorm' is of type str; expected a callable that makes a module"),
     ({"replace_stride_with_dilation": "no"}, "replace_stride_with_dilation 'no' is of type str; expected 3 booleans"),
     ({"replace_stride_with_dilation": True}, "replace_stride_with_dilation True is of type bool; expected 3 booleans"),
     ({"zero_init_residual": "no"}, "zero_init_residual 'no' is of type str; expected True or False"),
     ({"drop_rate": "x"}, "drop_rate 'x' is of type str; expected a probability"),
     ({"layers": 4}, "layers 4 is of type int; expected the number of bottlenecks")],
)  # fmt: skip
def test_values_of_another_type_are_named_with_it(options, message):
    with pytest.raises(TypeError, match=message):
        ResNeXt(**{"layers": (1, 1, 1, 1), **options})


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [(2, TypeError, "out_indices 2 is of type int; expected a sequence"),
     ("12", TypeError, "out_indices '12' is of type str"),
     ((1.0,), ValueError, r"out_indices \(1.0,\); expected some of 0 to 4"),
     ((5,), ValueError, r"out_indices \(5,\); expected some of 0 to 4 \(or -5 to -1\)"),
     ((), ValueError, r"out_indices \(\); expected some of")],
)  # fmt: skip
def test_maps_that_do_not_exist(indices, error, message):
    with pytest.raises(error, match=message):
        IMAGENET.build(features_only=True, out_indices=indices)
