"""Layers that do nothing are taken away, layers that do the same are one kind, and nothing else is."""

import math

import pytest
import torch

from conversion import mapping, t7, verify
from tests.conversion.mapping.conftest import refused
from tests.helpers.torch7_networks import dump, resnext
from tests.helpers.torch7_trees import BLOCK, BRANCH, append, find, make, make_list, put
from tests.helpers.torch7_writer import read


@pytest.fixture
def same(root, sample):
    """Asserts that the changed file still converts to the same weights, and that this can be proved."""
    expected = mapping.convert(t7.load(sample)).state_dict

    def check(changed=root):
        conversion = mapping.convert(changed)
        assert conversion.state_dict.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in conversion.state_dict.items())
        assert verify.verify(conversion).passed

    return check


def insert(root, path, index, obj):
    """Put a module among those of a container."""
    container = find(root, path) if path else root
    modules = container["modules"].as_list()
    put(container, "modules", make_list(root, *modules[: index - 1], obj, *modules[index - 1 :]))


NOTHING = [
    ("nn.AddConstant", {"constant_scalar": 0}), ("nn.Contiguous", {}), ("nn.Copy", {"_type": "torch.FloatTensor"}),
    ("nn.Dropout", {"p": 0.5, "v2": True}), ("nn.Dropout", {"p": 0, "v2": False}), ("nn.GradientReversal", {}),
    ("nn.Identity", {}), ("nn.L1Penalty", {"l1weight": 0.1}), ("nn.MulConstant", {"constant_scalar": 1}),
    ("nn.Padding", {"dim": 2, "pad": 0}), ("nn.Power", {"pow": 1}), ("nn.SpatialDropout", {"p": 0}),
    ("nn.SpatialReflectionPadding", {f"pad_{side}": 0 for side in "lrtb"}),
    ("nn.SpatialZeroPadding", {f"pad_{side}": 0 for side in "lrtb"}), ("nn.WhiteNoise", {"mean": 0}),
    ("nn.ZeroGrad", {}), ("nn.NormStabilizer", {}), ("nn.PrintSize", {}), ("nn.TotalDropout", {}),
    ("nn.TotalVariation", {}), ("nn.SpatialUpSamplingNearest", {"scale_factor": 1}),
]  # fmt: skip


@pytest.mark.parametrize("path", ["", BRANCH, f"{BLOCK}.modules[2]"])
@pytest.mark.parametrize(("name", "fields"), NOTHING, ids=str)
def test_a_layer_that_does_nothing(root, sample, name, fields, path):
    expected = mapping.convert(t7.load(sample)).stages.keys()
    insert(root, path, 1, make(root, name, **fields))
    conversion = mapping.convert(root)
    assert conversion.stages.keys() == expected
    assert conversion.notes == []


def test_layers_that_do_nothing_are_proved(root, same):
    for name, fields in NOTHING:
        insert(root, "", 1, make(root, name, **fields))
        if "Spatial" not in name or "Dropout" in name:  # the output is a vector for each image
            append(root["modules"], make(root, name, **fields))
    same()


SOMETHING = [
    ("nn.AddConstant", {"constant_scalar": 0.5}), ("nn.Copy", {"_type": "torch.ByteTensor"}),
    ("nn.Dropout", {"p": 0.5}), ("nn.Dropout", {"p": 0.5, "v2": True, "stochastic_inference": True}),
    ("nn.MulConstant", {"constant_scalar": 2}), ("nn.Power", {"pow": 2}), ("nn.SpatialDropout", {"p": 0.5}),
    ("nn.Tanh", {}), ("nn.WhiteNoise", {"mean": 0.1}), ("nn.Mystery", {}),
]  # fmt: skip


@pytest.mark.parametrize("path", ["", BRANCH])
@pytest.mark.parametrize(("name", "fields"), SOMETHING, ids=str)
def test_a_layer_that_does_something_is_named(root, name, fields, path):
    insert(root, path, 1, make(root, name, **fields))
    refused(root, f"not a ResNeXt: expected convolution, got {name}")


RELU = [
    ("nn.Threshold", {"threshold": 0, "val": 0}), ("nn.ReLU", {"inplace": True}), ("cudnn.ReLU", {}),
    ("nn.LeakyReLU", {"negval": 0}), ("nn.Clamp", {"min_val": 0, "max_val": math.inf}),
    ("nn.HardTanh", {"min_val": 0, "max_val": 3.4028234663852886e38}), ("nn.ELU", {"alpha": 0}),
    ("nn.Clip", {"minval": 0, "maxval": math.inf}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), RELU, ids=str)
def test_a_relu_under_another_name(root, same, name, fields):
    put(root["modules"], 3, make(root, name, **fields))
    same()


@pytest.mark.parametrize(
    ("name", "fields"),
    [("nn.Threshold", {"threshold": 0, "val": 1e-6}), ("nn.Threshold", {"threshold": 1e-6, "val": 0}),
     ("nn.ReLU", {"threshold": 0.1}), ("cudnn.ReLU", {"val": 0.1}), ("nn.ReLU6", {}), ("nn.LeakyReLU", {}),
     ("nn.HardTanh", {"min_val": 0, "max_val": 20}), ("nn.Clamp", {"min_val": -1, "max_val": math.inf})],
    ids=str,
)  # fmt: skip
def test_what_is_almost_a_relu_is_refused(root, name, fields):
    put(root["modules"], 3, make(root, name, **fields))
    refused(root, f"not a ResNeXt: expected ReLU, got {name}")


def test_a_cudnn_layer_of_another_mode_is_refused(root):
    put(root["modules"][3], "mode", "CUDNN_ACTIVATION_TANH")
    refused(root, "modules[3]", "mode 'CUDNN_ACTIVATION_TANH' is not that of cudnn.ReLU")


@pytest.mark.parametrize("name", ["nn.Serial", "nn.Decorator", "nn.DontCast", "nn.NaN", "nn.DataParallelTable"])
def test_a_module_that_only_holds_another(root, same, name):
    same(make(root, name, modules=make_list(root, root)))


def test_one_module_of_no_parameters_in_many_places(root, same):
    """One ReLU in place, one addition and one identity throughout."""
    relu, add = make(root, "nn.ReLU", inplace=True), make(root, "nn.CAddTable", inplace=True)
    for obj in [obj for obj in t7.walk(root) if isinstance(obj, t7.TorchObject) and "modules" in obj]:
        for index, child in enumerate(obj.objects(), 1):
            if child.class_name in ("cudnn.ReLU", "nn.CAddTable"):
                put(obj["modules"], index, relu if child.class_name == "cudnn.ReLU" else add)
    same()
    assert list(mapping.convert(root).stages) == ["layer1", "layer2", "layer3"]  # a stage is where a module runs once


def test_one_module_whose_output_is_overwritten_while_it_is_needed(models):
    """The shortcut would take what the ReLU gave, after the branch has run the same ReLU."""
    root = t7.load(models["cifar10_resnext20_4x8d_C_shortcutC"])
    relu = make(root, "nn.ReLU", inplace=False)
    for obj in [obj for obj in t7.walk(root) if isinstance(obj, t7.TorchObject) and "modules" in obj]:
        for index, child in enumerate(obj.objects(), 1):
            if child.class_name == "cudnn.ReLU":
                put(obj["modules"], index, relu)
    refused(root, "is used here, after another call or a layer in place overwrote it")


def test_one_addition_whose_output_is_its_own_input_is_refused(tmp_path):
    """The second bottleneck of a stage would add its branch to a sum that it has overwritten by then."""
    root = read(tmp_path, dump(resnext((2, 1, 1), 2, 4)))
    add = make(root, "nn.CAddTable", inplace=False)
    for obj in [obj for obj in t7.walk(root) if isinstance(obj, t7.TorchObject) and "modules" in obj]:
        for index, child in enumerate(obj.objects(), 1):
            if child.class_name == "nn.CAddTable":
                put(obj["modules"], index, add)
    refused(root, "nn.CAddTable overwrites its own input")


def test_a_layer_in_place_before_another_use_is_refused(root):
    first = find(root, f"{BLOCK}.modules")
    put(first, 1, make(root, "nn.Sequential", modules=make_list(root, make(root, "nn.ReLU", inplace=True), first[1])))
    refused(root, "is used here, after another call or a layer in place overwrote it")


def test_tables_put_together_and_taken_apart_again(root, same):
    block = find(root, "modules[4].modules[1]")
    table = make_list(root)
    spare = make(root, "nn.Identity")
    concat, add, relu = block["modules"].as_list()
    branches = [*concat["modules"].as_list(), spare]
    identities = make(root, "nn.ConcatTable", modules=make_list(root, *(make(root, "nn.Identity") for _ in branches)))
    parallel = make(root, "nn.ParallelTable", modules=make_list(root, *branches))
    narrow, back = make(root, "nn.NarrowTable", offset=1, length=2), make(root, "nn.ReverseTable")
    for module in (identities, parallel, make(root, "nn.FlattenTable"), narrow, back, add, relu):
        append(table, module)
    put(block, "modules", table)
    single = make(root, "nn.ConcatTable", modules=make_list(root, make(root, "nn.Identity")))
    insert(root, "", 4, single)
    insert(root, "", 5, make(root, "nn.SelectTable", index=-1))
    insert(root, "", 6, make(root, "nn.Concat", dimension=2, modules=make_list(root, make(root, "nn.Identity"))))
    same()


@pytest.mark.parametrize(
    ("name", "fields", "cause"),
    [("nn.SelectTable", {"index": 3}, "expected a table that has the selected element"),
     ("nn.NarrowTable", {"offset": 2, "length": 5}, "expected a table that has the selected elements"),
     ("nn.ReLU", {}, "not a ResNeXt: nn.ReLU of a table")],
)  # fmt: skip
def test_tables_that_do_not_fit(root, name, fields, cause):
    insert(root, "modules[4].modules[1]", 2, make(root, name, **fields))
    refused(root, cause)


def test_a_tensor_where_a_table_must_be(root):
    insert(root, "", 1, make(root, "nn.ReverseTable"))
    refused(root, "expected a table")


def test_a_classifier_without_bias(root):
    linear = root["modules"][9]
    put(root["modules"], 9, make(root, "nn.LinearNoBias", weight=linear["weight"]))
    conversion = mapping.convert(root)
    assert not conversion.state_dict["fc.bias"].any()
    assert conversion.notes == ["1 linear without bias: 0 everywhere"]
    assert verify.verify(conversion).passed


def test_a_table_as_output(root):
    append(root["modules"], make(root, "nn.ConcatTable", modules=make_list(root, make(root, "nn.Identity"))))
    refused(root, "expected a network that returns a tensor")


def test_a_network_that_contains_itself(root):
    put(find(root, "modules[4].modules"), 1, root)
    refused(root, "the module contains itself")


def test_a_network_that_would_run_for_ever(root):
    module = make(root, "nn.Identity")
    for _ in range(45):
        module = make(root, "nn.Sequential", modules=make_list(root, module, module))
    refused(module, "expected at most 100000 calls of modules")


def test_a_network_nested_too_deep(root):
    for _ in range(200):
        root = make(root, "nn.Sequential", modules=make_list(root, root))
    refused(root, "nested 150 deep")


def test_a_wrapper_without_a_network(root):
    refused(
        make(root, "nn.DataParallelTable", modules=make_list(root)), "expected nn.DataParallelTable to hold a network"
    )
