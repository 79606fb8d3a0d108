"""Checkpoints of training scripts and of other ports of ResNeXt."""

import itertools
import json
import random

import pytest
import torch

from resnext.architecture import Architecture
from resnext.weights.layouts import LayoutError, find_weights, read_layout
from tests.helpers.recorded import ROOT

# Keys and shapes of ports, with a renaming that was checked by running both.
LAYOUTS = ROOT.parent / "shared" / "layouts"
OTHER_NETWORKS = {
    "kuangliu_resnext29_8x64d_dataparallel": "it starts with module.conv1.weight (64, 3, 1, 1)",
    "qubvel_resnext50_32x4d": "bn_data",
    "qubvel_resnext101_32x4d": "bn_data",
    "timm_seresnext50_32x4d": "layer1.0.se.fc1",
    "timm_legacy_seresnext50_32x4d": "layer1.0.se_module.fc1",
    "detectron_caffe2_resnext101_64x4d": "conv1_w",  # its batch norms are folded, and a pickle of arrays is never read
}
SMALL = {
    "C": Architecture((1, 2, 1, 1), cardinality=2, base_width=8, num_classes=5),
    "wide": Architecture((2, 1, 1, 1), cardinality=64, base_width=4, num_classes=5),  # all convolutions 256 x 256
    "cifar": Architecture((1, 1, 2), cardinality=2, base_width=8, stem="cifar", num_classes=10),
}


def layout(name):
    path = LAYOUTS / f"{name}.json"
    if not path.exists():
        pytest.skip("the layouts of other ports are not part of the repository")
    return json.loads(path.read_text())


def layout_names():
    return sorted(path.stem for path in LAYOUTS.glob("*.json") if path.stem != "WITNESSES")


@pytest.mark.parametrize("name", layout_names() or ["absent"])
def test_every_known_port(name):
    content = layout(name)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in content["entries"]}
    if name in OTHER_NETWORKS:
        with pytest.raises(LayoutError, match=OTHER_NETWORKS[name].replace("(", r"\(").replace(")", r"\)")):
            read_layout(tensors)
        return
    _, reading = read_layout(tensors)
    expected = content.get("to_resnext_form_A") or content.get("to_torchvision") or content.get("to_resnext")
    assert reading.names == {key: expected[key] for key in tensors}
    assert reading.form == ("A" if "typeA" in name else "C")


@pytest.mark.parametrize("order", ["names", "none"])
@pytest.mark.parametrize("name", layout_names() or ["absent"])
def test_every_known_port_in_another_order(name, order):
    """That of the names as text, as safetensors has them, and none, as dictionaries of Python 2 have them."""
    content = layout(name)
    if name in OTHER_NETWORKS:
        return
    entries = sorted(content["entries"])
    if order == "none":
        random.Random(0).shuffle(entries)
    _, reading = read_layout({key: torch.empty(shape, device="meta") for key, shape in entries})
    expected = content.get("to_resnext_form_A") or content.get("to_torchvision") or content.get("to_resnext")
    assert reading.names == {key: expected[key] for key, _ in entries}


def test_ten_blocks_and_more_in_the_order_of_their_names():
    """As text, stage3.10 comes ahead of stage3.2, and their shapes are the same."""
    state = Architecture((1, 1, 12, 1), cardinality=2, base_width=8).build_empty().state_dict()
    _, reading = read_layout(
        {key: state[key.replace("stage", "layer")] for key in sorted(key.replace("layer", "stage") for key in state)}
    )
    assert reading.names == {key.replace("layer", "stage"): key for key in state}


@pytest.fixture(params=SMALL)
def weights(request):
    torch.manual_seed(0)
    return {
        key: torch.rand_like(value) if value.dim() else value
        for key, value in SMALL[request.param].build().state_dict().items()
    }


def blocks(weights):
    """The entries of each bottleneck together, those of stem and classifier one by one."""
    return [
        list(group)
        for _, group in itertools.groupby(weights, lambda key: key.split(".")[:2] if "layer" in key else key)
    ]


def modules(key):
    return key.rpartition(".")[0]


def opaque(weights):
    """Modules by number only."""
    numbers = {name: index for index, name in enumerate(dict.fromkeys(map(modules, weights)))}
    return [(f"m.{numbers[modules(key)]}.{key.rpartition('.')[2]}", key) for key in weights]


def shortcut_first(weights):
    keys = [key for block in blocks(weights) for key in sorted(block, key=lambda key: "downsample" not in key)]
    return [(f"encoder.{key}", key) for key in keys]


def convolutions_first(weights):
    """As a constructor that makes all convolutions of a block before its batch norms."""
    keys = [
        key for block in blocks(weights) for key in sorted(block, key=lambda key: "bn" in key or "downsample.1" in key)
    ]
    return [(key.replace("layer", "stage"), key) for key in keys]


def shuffled(weights):
    """As a plain dictionary of an old Python leaves them."""
    keys = list(weights)
    random.Random(0).shuffle(keys)
    return [(key.replace("layer", "stage").replace("downsample", "shortcut"), key) for key in keys]


def norms_inside(weights):
    """As detectron2 names them."""
    renamed = {"bn": "conv", "downsample.0": "shortcut", "downsample.1": "shortcut.norm"}
    pairs = []
    for key in weights:
        name = key
        for number in "123":
            name = name.replace(f"bn{number}.", f"conv{number}.norm.")
        for ours, theirs in list(renamed.items())[1:]:
            name = name.replace(ours, theirs)
        pairs.append((name, key))
    return pairs


@pytest.mark.parametrize("port", [opaque, shortcut_first, convolutions_first, shuffled, norms_inside])
def test_a_port_that_nobody_listed(weights, port):
    pairs = port(weights)
    renamed, reading = read_layout({theirs: weights[ours] for theirs, ours in pairs})
    assert reading.names == dict(pairs)
    assert renamed.keys() == weights.keys()
    assert all(torch.equal(renamed[key], weights[key]) for key in weights)
    if "layer1.0.conv1.weight" not in dict(pairs):
        assert "stride" in reading.remark


def renamed_as(stem, block, modules, classifier):
    """A port of these templates, its entries in the order of their names, as safetensors has them."""

    def port(weights):
        inner = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")
        pairs = []
        for key in weights:
            module, _, leaf = key.rpartition(".")
            stage, _, rest = module.partition(".")
            index, _, name = rest.partition(".")
            if name:
                theirs = block.format(stage=stage[5:], block=index) + modules[inner.index(name)]
            else:
                theirs = {"conv1": stem[0], "bn1": stem[1], "fc": classifier}[module]
            pairs.append((f"{theirs}.{leaf}", key))
        return sorted(pairs)

    return port


@pytest.mark.parametrize(
    "port",
    [
        renamed_as(
            ("stem.conv", "stem.norm"),
            "stages.{stage}.blocks.{block}.",
            ("reduce.conv", "reduce.norm", "spatial.conv", "spatial.norm", "expand.conv", "expand.norm", "side.conv",
             "side.norm"),
            "classifier",
        ),
        renamed_as(
            ("features.conv0", "features.norm0"),
            "features.stage{stage}.unit{block}.",
            ("body.0.conv_a", "body.0.norm_a", "body.1.conv_b", "body.1.norm_b", "body.2.conv_c", "body.2.norm_c",
             "skip.conv", "skip.norm"),
            "classifier",
        ),
        renamed_as(
            ("initial", "initial_norm"),
            "b{stage}.{block}.",
            ("squash", "squash_norm", "mix", "mix_norm", "grow", "grow_norm", "around", "around_norm"),
            "answer",
        ),
        renamed_as(
            ("head.0", "head.1"),
            "tail.{stage}.{block}.",
            ("residual.0", "residual.1", "residual.3", "residual.4", "residual.6", "residual.7", "a.0", "a.1"),
            "z",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("weights", ["C", "cifar"], indirect=True)
def test_a_port_in_the_order_of_its_names(weights, port):
    pairs = port(weights)
    renamed, reading = read_layout({theirs: weights[ours] for theirs, ours in pairs})
    assert reading.names == dict(pairs)
    assert all(torch.equal(renamed[key], weights[key]) for key in weights)


def test_a_classifier_that_is_a_convolution(weights):
    theirs = {key.replace("layer", "stage"): value for key, value in weights.items()}
    theirs["fc.weight"] = theirs["fc.weight"][:, :, None, None]
    renamed, _ = read_layout(theirs)
    assert torch.equal(renamed["fc.weight"], weights["fc.weight"])


def test_which_of_two_readings_only_names_can_tell():
    """Where all 1x1 convolutions of a block have one shape, the shortcut is told by its name, or not at all."""
    weights = SMALL["wide"].build_empty().state_dict()
    first = [key for block in blocks(weights) for key in sorted(block, key=lambda key: "downsample" not in key)]
    numbers = {name: index for index, name in enumerate(dict.fromkeys(map(modules, first)))}
    with pytest.raises(LayoutError, match="more than one reading"):
        read_layout({f"m.{numbers[modules(key)]}.{key.rpartition('.')[2]}": weights[key] for key in first})


def test_tensorflow_kernels(weights):
    theirs = {}
    for key, value in weights.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = f"{modules(key).replace('.', '_')}/"
        if value.dim() == 4 and value.shape[0] > value.shape[1] and value.shape[2] == 3 and key != "conv1.weight":
            outputs, width, height, _ = value.shape  # depthwise, each input to all outputs of its group
            kernel = value.reshape(outputs // width, width, width, height, height).permute(3, 4, 0, 2, 1)
            theirs[name + "depthwise_kernel:0"] = kernel.reshape(height, height, outputs, width)
        elif value.dim() == 4:
            theirs[name + "kernel:0"] = value.permute(2, 3, 1, 0)
        elif value.dim() == 2:
            theirs[name + "kernel:0"] = value.t()
        else:
            leaf = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
            leaf = {"bias": "bias"} if key.startswith("fc") else leaf
            theirs[f"{name}{leaf[key.rpartition('.')[2]]}:0"] = value
    renamed, _ = read_layout(theirs)
    assert all(torch.equal(renamed[key], weights[key]) for key in renamed)
    assert len(renamed) == len(theirs)


def test_a_grouped_first_convolution_is_widened_with_zeros():
    weights = SMALL["cifar"].build().state_dict()
    dense = weights["layer1.0.conv1.weight"]
    narrow = torch.randn(dense.shape[0], dense.shape[1] // 2, 1, 1)
    renamed, _ = read_layout(weights | {"layer1.0.conv1.weight": narrow})
    x = torch.randn(1, dense.shape[1], 2, 2)
    expected = torch.nn.functional.conv2d(x, narrow, groups=2)
    torch.testing.assert_close(torch.nn.functional.conv2d(x, renamed["layer1.0.conv1.weight"]), expected)


def test_the_backbone_of_a_detector(weights):
    backbone = {f"backbone.body.{key}": value for key, value in weights.items() if not key.startswith("fc")}
    detector = {"fpn.0.weight": torch.zeros(8, 8, 1, 1), "fpn.0.bias": torch.zeros(8), **backbone}
    renamed, reading = read_layout(detector)
    assert renamed.keys() == {key for key in weights if not key.startswith("fc")}
    assert reading.left_out == ("fpn.0.weight", "fpn.0.bias")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.bias": torch.zeros(16)}, "layer1.0.conv1.bias: a convolution with a bias"),
        ({"layer1.0.se.fc.weight": torch.zeros(16, 16, 1, 1)}, "no bottleneck of a ResNeXt starts at"),
        ({"fc2.weight": torch.zeros(5, 5)}, "two linear layers"),
        ({"layer1.0.gate": torch.zeros(1)}, "layer1.0.gate (1,) has no place"),
        ({"layer1.0.bn3.weight": None}, "no bottleneck of a ResNeXt starts at layer1.0.conv1.weight"),
        ({"conv1.weight": torch.zeros(64, 3, 5, 5)}, "expected a convolution of 7x7 or 3x3"),
    ],
)
def test_other_networks_are_refused_by_what_makes_them_other(change, message):
    weights = dict(SMALL["cifar"].build_empty().state_dict()) | change
    if change.get("layer1.0.bn3.weight", 0) is None:
        weights = {key: value for key, value in weights.items() if "layer1.0.bn3" not in key}
    with pytest.raises(LayoutError) as caught:
        read_layout(weights)
    assert message in str(caught.value)


NETWORK = {"conv1.weight": torch.zeros(4, 3, 3, 3), "bn1.weight": torch.zeros(4)}
AVERAGE = {name: value + 1 for name, value in NETWORK.items()}


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("checkpoint", "remark"),
    [
        (NETWORK, None),
        ({"state_dict": NETWORK, "epoch": 3, "optimizer": {"state": NETWORK}}, "took ['state_dict']"),
        ({"epoch": 1, "model": prefixed("module.", NETWORK), "args": None}, "removed the prefix module."),
        ({"state_dict": prefixed("model._orig_mod.", NETWORK)}, "removed the prefix _orig_mod."),
        ({"checkpoint": {"net": NETWORK}, "acc": 0.5}, "took ['checkpoint']['net']"),
        ({name.encode(): value for name, value in NETWORK.items()}, None),
    ],
)
def test_the_network_in_a_training_checkpoint(checkpoint, remark):
    found = find_weights(checkpoint)
    assert found.tensors == NETWORK
    assert remark in found.remarks if remark else not found.remarks


BOTH = [
    {"state_dict": NETWORK, "state_dict_ema": AVERAGE},
    {"model": NETWORK, "model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.", AVERAGE)}},
]


@pytest.mark.parametrize("checkpoint", BOTH)
@pytest.mark.parametrize(("ema", "expected"), [(None, AVERAGE), (True, AVERAGE), (False, NETWORK)])
def test_the_moving_average_is_taken_unless_told_otherwise(checkpoint, ema, expected):
    found = find_weights(checkpoint, ema)
    assert found.tensors.keys() == expected.keys()
    assert all(torch.equal(found.tensors[name], expected[name]) for name in expected)
    assert any("ema=False" in remark for remark in found.remarks) == (ema is None)


@pytest.mark.parametrize(
    ("checkpoint", "ema", "message"),
    [
        (3, None, "got int"),
        ({}, None, "got dict without entries"),
        ({"epoch": 3, "lr": 0.1}, None, "got dict without the tensors of a network: got int under 'epoch', float"),
        ({"student": NETWORK, "teacher": AVERAGE}, None, "more than one network: ['student'], ['teacher']"),
        (NETWORK, True, "ema=True, but the checkpoint has no moving average"),
        ({"model_ema": AVERAGE}, False, "ema=False, but the checkpoint has no weights but"),
    ],
)
def test_checkpoints_without_one_network(checkpoint, ema, message):
    with pytest.raises(LayoutError) as caught:
        find_weights(checkpoint, ema)
    assert message in str(caught.value)
