"""A ResNeXt is recognised by what it computes; whatever is missing, left over or another network is named."""

import pytest
import torch

from conversion import mapping, t7, verify
from tests.conversion.mapping.conftest import refused
from tests.helpers.torch7_networks import Longs, dump, resnext
from tests.helpers.torch7_trees import BLOCK, BRANCH, SHORTCUT, append, find, make, make_list, put, remove
from tests.helpers.torch7_writer import read


def same_weights(root, sample):
    expected = mapping.convert(t7.load(sample)).state_dict
    conversion = mapping.convert(root)
    got = conversion.state_dict
    same = got.keys() == expected.keys() and all(torch.equal(got[k], v) for k, v in expected.items())
    return same and verify.verify(conversion).passed


@pytest.fixture
def written(tmp_path_factory):
    """A value as it is read from a file of its own."""
    return lambda value: read(tmp_path_factory.mktemp("value"), dump(value))


# --- where the network is ---------------------------------------------------------------------------------------------


def test_a_data_parallel_table_in_a_table(root, sample):
    parallel = make(root, "nn.DataParallelTable", modules=make_list(root, root, t7.load(sample)))
    table = make_list(root)
    put(table, "model", parallel)
    put(table, "epoch", 90)
    assert same_weights(table, sample)


def test_tables_in_tables_with_the_network_under_two_keys_and_a_criterion(root, sample):
    criterion = make(
        root, "nn.CrossEntropyCriterion", lsm=make(root, "nn.LogSoftMax"), weight=root["modules"][2]["bias"]
    )
    state = make_list(root, make_list(root, root), make(root, "optim.ConfusionMatrix"), criterion)
    put(state, "best", root)
    assert same_weights(state, sample)
    put(state, "stem", root["modules"][1])  # a part of the network
    assert same_weights(state, sample)


def test_objects_that_are_no_modules_and_hold_the_network(root, sample):
    """Such as an optimizer of a script, whose class is its own."""
    optimizer = make(root, "nn.Optim", model=root, modulesToOptState=make_list(root, root["modules"][1]))
    assert same_weights(make_list(root, optimizer, root), sample)
    assert same_weights(make(root, "my.Trainer", net=root, optimizer=optimizer), sample)
    refused(make(root, "my.Trainer", epoch=3), "expected one network, got 0 in my.Trainer with the keys epoch")


def test_two_networks(root, sample):
    table = make_list(root)
    put(table, "model", root)
    put(table, "best", t7.load(sample))
    refused(table, "expected one network, got 2 at ")


def test_what_is_no_network(root):
    index = make_list(root)
    put(index, "modelFile", "model_90.t7")
    refused(index, "the index of a checkpoint; the network is in the file 'model_90.t7'")
    refused(make_list(root), "expected one network, got 0 in a table with the keys (none)")
    refused(make_list(root, 1, 2), "expected one network, got 0 in a table with the keys 1, 2")
    refused(3.5, "expected a network or a table that holds one, got 3.5")


# --- the same network, written otherwise ------------------------------------------------------------------------------


def test_nesting_makes_no_difference(root, sample):
    modules = root["modules"].as_list()
    stages = [block for stage in modules[3:6] for block in stage["modules"].as_list()]
    flat = make(root, "nn.Sequential", modules=make_list(root, *modules[:3], *stages, *modules[6:]))
    assert same_weights(flat, sample)
    wrapped = make(root, "nn.Sequential", modules=make_list(root, make(root, "nn.Identity"), root))
    assert same_weights(wrapped, sample)


def test_max_pooling_before_the_relu(written):
    root = written(resnext((1, 1, 1, 1), 2, 4, stem="imagenet", side=1))
    expected = mapping.convert(root).state_dict
    modules = root["modules"]
    relu, pool = modules[3], modules[4]
    put(modules, 3, pool)
    put(modules, 4, relu)
    conversion = mapping.convert(root)
    assert all(torch.equal(value, expected[name]) for name, value in conversion.state_dict.items())
    assert verify.verify(conversion).passed


@pytest.mark.parametrize(("field", "value"), [("kW", 2), ("padH", 0), ("dH", 1), ("dilationW", 2), ("ceil_mode", True)])
def test_max_pooling_of_another_kind(written, field, value):
    root = written(resnext((1, 1, 1, 1), 2, 4, stem="imagenet", side=1))
    put(root["modules"][4], field, value)
    refused(root, "modules[4]: not a ResNeXt: expected max pooling")


def test_max_pooling_where_the_stem_wants_none(root):
    pool = make(root, "nn.SpatialMaxPooling", kW=3, kH=3, dW=2, dH=2, padW=1, padH=1)
    modules = root["modules"].as_list()
    refused(
        make(root, "nn.Sequential", modules=make_list(root, *modules[:3], pool, *modules[3:])),
        "expected no max pooling",
    )


def test_the_shortcut_before_the_branch(root, sample):
    branches = find(root, f"{BLOCK}.modules")
    branch, shortcut = branches.as_list()
    put(branches, 1, shortcut)
    put(branches, 2, branch)
    assert same_weights(root, sample)


def test_padding_in_a_layer_of_its_own(root, sample):
    padding = make(root, "nn.SpatialZeroPadding", pad_l=1, pad_r=1, pad_t=1, pad_b=1)
    convolution = root["modules"][1]
    put(convolution, "padW", 0)
    put(convolution, "padH", 0)
    modules = root["modules"].as_list()
    net = make(root, "nn.Sequential", modules=make_list(root, padding, *modules))
    assert same_weights(net, sample)
    put(padding, "pad_l", 0)
    refused(net, "padding of 0, 1, 1 and 1; expected the same")


HEADS = {
    "adaptive": lambda make, sizes: [
        make("nn.SpatialAdaptiveAveragePooling", W=1, H=1), make("nn.View", size=sizes(-1, 1024))],
    "two poolings": lambda make, sizes: [
        make("nn.SpatialAveragePooling", kW=4, kH=4, dW=4, dH=4, divide=True),
        make("nn.SpatialAveragePooling", kW=2, kH=2, dW=1, dH=1, divide=True),
        make("nn.View", size=sizes(-1), numInputDims=3),
    ],
    "means": lambda make, sizes: [make("nn.Mean", dimension=4), make("nn.Mean", dimension=3)],
    "means of merged dimensions": lambda make, sizes: [
        make("nn.View", size=sizes(1024, -1), numInputDims=3),
        make("nn.Mean", dimension=2, nInputDims=2),
    ],
    "a sum, scaled": lambda make, sizes: [
        make("nn.SpatialAveragePooling", kW=8, kH=8, dW=1, dH=1),
        make("nn.MulConstant", constant_scalar=1 / 64),
        make("nn.Squeeze"),
    ],
    "sums, scaled": lambda make, sizes: [
        make("nn.MulConstant", constant_scalar=1 / 64),
        make("nn.Sum", dimension=-1),
        make("nn.Sum", dimension=3, squeeze=False),
        make("nn.Select", dimension=3, index=1),
    ],
    "collapse": lambda make, sizes: [
        make("nn.SpatialAdaptiveAveragePooling", W=1, H=1),
        make("nn.Collapse", nInputDim=3),
    ],
    "collapse of all but the first dimension": lambda make, sizes: [
        make("nn.Sum", dimension=4, nInputDims=-1, sizeAverage=True),
        make("nn.Mean", dimension=3, nInputDims=-1, squeeze=False),
        make("nn.Collapse", nInputDim=1),
    ],
    "views": lambda make, sizes: [
        make("cudnn.SpatialAveragePooling", kW=8, kH=8, dW=8, dH=8, ceil_mode=True),
        make("nn.Squeeze", dim=3, numInputDims=3),
        make("nn.View", size=sizes(-1, 1024, 1)),
        make("nn.Reshape", size=sizes(1024)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_the_average_of_the_whole_map_however_it_is_written(root, sample, written, head):
    modules = root["modules"].as_list()
    layers = HEADS[head](lambda name, **fields: make(root, name, **fields), lambda *sizes: written(Longs(sizes)))
    assert same_weights(make(root, "nn.Sequential", modules=make_list(root, *modules[:6], *layers, modules[8])), sample)


def test_a_convolution_as_classifier(root, sample, written):
    linear = root["modules"][9]
    convolution = make(
        root, "nn.SpatialConvolution", nInputPlane=1024, nOutputPlane=10, kW=1, kH=1, dW=1, dH=1,
        weight=written(linear["weight"].numpy().reshape(10, 1024, 1, 1)), bias=linear["bias"],
    )  # fmt: skip
    modules = root["modules"].as_list()
    view = make(root, "nn.View", size=written(Longs([10])), numInputDims=3)
    assert same_weights(make(root, "nn.Sequential", modules=make_list(root, *modules[:7], convolution, view)), sample)
    refused(
        make(root, "nn.Sequential", modules=make_list(root, *modules[:7], convolution)), "one number for each class"
    )
    early = make(root, "nn.Sequential", modules=make_list(root, *modules[:6], convolution, modules[6], view))
    assert same_weights(early, sample)  # averages of its outputs instead of outputs for averages
    pool = make(root, "nn.SpatialAveragePooling", kW=8, kH=8, dW=1, dH=1)
    scale = make(root, "nn.MulConstant", constant_scalar=1 / 64)
    scaled = make_list(root, *modules[:6], pool, convolution, scale, view)  # which scales the bias as well
    refused(make(root, "nn.Sequential", modules=scaled), "got a convolution")
    put(convolution, "padW", 1)
    refused(make(root, "nn.Sequential", modules=make_list(root, *modules[:7], convolution, view)), "got a convolution")


# --- what is refused --------------------------------------------------------------------------------------------------


WRONG_HEADS = {
    "no dividing": (
        lambda make, sizes: [
            make("nn.SpatialAveragePooling", kW=8, kH=8, dW=1, dH=1, divide=False),
            make("nn.Squeeze"),
        ],
        "got 64 times that",
    ),
    "averages of a grid": (
        lambda make, sizes: [make("nn.SpatialAdaptiveAveragePooling", W=2, H=2)],
        "expected an average over a whole feature map, got 2x2 averages",
    ),
    "over channels": (lambda make, sizes: [make("nn.Mean", dimension=2)], "got one over channels"),
    "over no dimension": (lambda make, sizes: [make("nn.Mean", dimension=6)], "dimension 6 of images of shape"),
    "a huge kernel": (
        lambda make, sizes: [make("nn.SpatialAveragePooling", kW=1000, kH=1000, dW=1, dH=1, divide=True)],
        "expected pooling of at most 64x64",
    ),
    "a slice": (
        lambda make, sizes: [make("nn.Select", dimension=3, index=1), make("nn.Select", dimension=3, index=1)],
        "it selects one of 8",
    ),
    "channels mixed": (
        lambda make, sizes: [make("nn.View", size=sizes(64, 1024), numInputDims=3), make("nn.Mean", dimension=2)],
        "channels kept apart",
    ),
    "the batch flattened": (
        lambda make, sizes: [make("nn.SpatialAdaptiveAveragePooling", W=1, H=1), make("nn.View", size=sizes(-1))],
        "channels kept apart",
    ),
    "the batch reshaped": (
        lambda make, sizes: [
            make("nn.SpatialAdaptiveAveragePooling", W=1, H=1),
            make("nn.Reshape", size=sizes(1024), batchMode=False),
        ],
        "expected images to be kept apart",
    ),
    "a view of too few dimensions": (
        lambda make, sizes: [
            make("nn.SpatialAdaptiveAveragePooling", W=1, H=1),
            make("nn.View", size=sizes(1024), numInputDims=1),
        ],
        "a view of 1 dimensions",
    ),
    "a division by nothing": (
        lambda make, sizes: [make("nn.View", size=sizes(-1, 0), numInputDims=3)],
        "channels kept apart",
    ),
}


@pytest.mark.parametrize("head", WRONG_HEADS)
def test_another_head_is_refused(root, written, head):
    modules = root["modules"].as_list()
    layers, cause = WRONG_HEADS[head]
    made = layers(lambda name, **fields: make(root, name, **fields), lambda *sizes: written(Longs(sizes)))
    refused(make(root, "nn.Sequential", modules=make_list(root, *modules[:6], *made, modules[8])), cause)


@pytest.mark.parametrize(
    ("path", "field", "value", "cause"),
    [("modules[1]", "kW", 5, "kW 5, expected 3"), ("modules[1]", "dH", 2, "dH 2, expected 1"),
     ("modules[1]", "kH", 2.5, "expected a whole number as kH, got 2.5"),
     ("modules[1]", "dilationW", 2, "dilationW 2, expected 1"),
     (f"{BRANCH}.modules[1].modules[4]", "groups", 2, "weight has shape (32, 8, 3, 3)"),
     ("modules[5].modules[1].modules[1].modules[1].modules[1].modules[4]", "groups", 2, "groups 2, expected 4"),
     (f"{BRANCH}.modules[1].modules[4]", "padW", 0, "padW 0, expected 1"),
     (f"{BRANCH}.modules[2]", "nInputPlane", 31, "nInputPlane 31, expected 32"),
     ("modules[2]", "eps", 0.001, "eps 0.001, expected 1e-05"),
     ("modules[7]", "kW", 7, "expected an average over a whole square feature map of [8, 8], got 8x7"),
     ("modules[7]", "dH", 0, "expected a whole number from 1 as dH, got 0"),
     ("modules[7]", "padW", 1, "got 8x8, padding 1"),
     ("modules[7]", "kH", True, "expected a whole number as kH, got True"),
     ("modules[1]", "nInputPlane", True, "expected a whole number as nInputPlane, got True")],
)  # fmt: skip
def test_geometry_is_checked(root, path, field, value, cause):
    put(find(root, path), field, value)
    refused(root, path, cause)


def test_average_pooling_without_a_stride_is_refused(root):
    remove(root["modules"][7], "dH")
    refused(root, "modules[7]", "no field dH")


@pytest.mark.parametrize(
    ("path", "class_name", "place", "expected"),
    [("modules[1]", "nn.Linear", "modules[1]", "expected convolution, got nn.Linear"),
     ("modules[3]", "nn.Tanh", "modules[3]", "expected ReLU, got nn.Tanh"),
     (f"{BRANCH}.modules[3]", "nn.Identity", "modules[2]", "expected batch normalization, got nn.CAddTable"),
     ("modules[4].modules[1].modules[2]", "nn.CMulTable", "modules[2]", "nn.CMulTable of a table"),
     ("modules[9]", "nn.LogSoftMax", "modules[9]", "expected the network to end with linear, got nn.LogSoftMax"),
     ("modules[8]", "nn.Dropout", "modules[8]", "expected linear, got nn.Dropout")],
)  # fmt: skip
def test_another_layer_is_named_with_its_place(root, path, class_name, place, expected):
    find(root, path).class_name = class_name
    refused(root, f"{place}: not a ResNeXt: {expected}")


def test_a_layer_after_the_classifier(root):
    append(root["modules"], make(root, "nn.LogSoftMax"))
    refused(root, "expected the network to end with linear, got nn.LogSoftMax")


def test_a_network_that_ends_early(root):
    for _ in range(3):
        remove(root["modules"], 7)
    refused(root, "expected the network to end with linear, got cudnn.ReLU")
    for _ in range(4):
        remove(root["modules"], 3)
    refused(root, "modules[2]", "expected ReLU after this one, got none: the network ends here")


def test_three_branches(root):
    append(find(root, f"{BLOCK}.modules"), make(root, "nn.Identity"))
    refused(root, "expected a bottleneck and one shortcut after this layer, got 1 paths and 2 shortcuts")


def test_a_shortcut_that_is_the_identity_where_the_shape_changes(root):
    put(find(root, BLOCK)["modules"], 2, make(root, "nn.Identity"))
    refused(root, "the shortcut of layer1.0 is the identity")


def test_wrong_number_of_stages(root):
    remove(root["modules"], 6)
    refused(root, "2 stages of (1, 1) bottlenecks; expected 3 or 4 stages")


def test_no_bottleneck(root):
    for _ in range(3):
        remove(root["modules"], 4)
    refused(root, "no bottleneck")


def test_paths_joined_along_another_dimension(models):
    root = t7.load(models["cifar10_resnext11_4x8d_B"])
    join = next(obj for obj in t7.walk(root) if isinstance(obj, t7.TorchObject) and obj.class_name == "nn.JoinTable")
    put(join, "dimension", 3)
    refused(root, "expected the channels to be joined, got dimension 3")


def test_left_over_parameters_are_named(root):
    put(root["modules"][3], "weight", root["modules"][2]["weight"])
    put(root["modules"][3], "running_mean", root["modules"][2]["weight"])
    refused(root, "left over", "modules[3].weight, modules[3].running_mean")


def test_layers_that_nothing_uses_are_named(root, sample):
    unused = t7.load(sample)["modules"][1]
    both = make(root, "nn.ConcatTable", modules=make_list(root, make(root, "nn.Identity"), unused))
    modules = root["modules"].as_list()
    select = make(root, "nn.SelectTable", index=1)
    refused(
        make(root, "nn.Sequential", modules=make_list(root, both, select, *modules)), "left over", "modules[1].weight"
    )


def test_a_module_with_parameters_that_appears_twice(root):
    put(find(root, f"{SHORTCUT}.modules"), 2, root["modules"][2])
    refused(root, "modules[2]", "appears more than once")


def test_sizes_that_no_network_has(root):
    for value in (0, -1, 2**31 - 1):
        put(find(root, f"{BRANCH}.modules[1].modules[4]"), "nOutputPlane", value)
        refused(root, "not a ResNeXt: ")
