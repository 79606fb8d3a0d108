"""A ResNeXt is recognised by structure; whatever is missing, left over or cannot be right is named."""

import struct

import pytest
import torch

from conversion import mapping, t7
from resnext.architecture import Architecture
from tests.conftest import MODELS, relative_error, torch7_output
from tests.conversion.edit import append, find, make, make_list, put, remove

BLOCK = "modules[4].modules[1].modules[1]"  # ConcatTable{branch, shortcut} of the first bottleneck
BRANCH = f"{BLOCK}.modules[1]"
SHORTCUT = f"{BLOCK}.modules[2]"


@pytest.fixture
def root(sample):
    return t7.load(sample)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_converted_network_gives_torch7s_own_outputs(models, name):
    conversion = mapping.convert(t7.load(models[name]))
    model = conversion.architecture.build_empty()
    model.load_state_dict(conversion.state_dict, strict=True, assign=True)
    images, expected = torch7_output(name)
    with torch.no_grad():
        assert relative_error(model.eval()(images), expected) <= 5e-5


@pytest.mark.parametrize(
    ("name", "architecture", "form"),
    [("cifar100_resnet11", Architecture((1, 1, 1), 1, 64, "cifar", "B", 100), "C"),
     ("cifar10_resnext11_4x8d_B", Architecture((1, 1, 1), 4, 8, "cifar", "B", 10), "B"),
     ("cifar10_resnext11_4x8d_C", Architecture((1, 1, 1), 4, 8, "cifar", "B", 10), "C"),
     ("cifar10_resnext11_4x8d_C_nested", Architecture((1, 1, 1), 4, 8, "cifar", "B", 10), "C"),
     ("cifar10_resnext20_4x8d_C_shortcutC", Architecture((2, 2, 2), 4, 8, "cifar", "C", 10), "C")],
)  # fmt: skip
def test_architecture_form_and_stages_are_found(models, name, architecture, form):
    conversion = mapping.convert(t7.load(models[name]))
    assert conversion.architecture == architecture
    assert conversion.source_form == form
    assert conversion.image_size == 32
    last = architecture.layers[0]
    assert conversion.stages == {"stem": "modules[3]"} | {
        f"layer{i}": f"modules[{i + 3}].modules[{last}].modules[3]" for i in (1, 2, 3)
    }


def test_tensors_are_the_files_own_bytes(root):
    conversion = mapping.convert(root)
    inner = find(root, f"{BRANCH}.modules[1].modules[4]")
    weight = conversion.state_dict["layer1.0.conv2.weight"]
    assert weight.numpy().tobytes() == inner["weight"].numpy().tobytes()
    assert conversion.notes == []


def test_progress_sees_every_layer(root):
    seen = []

    def progress(items):
        seen.extend(items)
        return items

    mapping.convert(root, progress)
    assert len(seen) == 1 + 3 * 3 + 3  # stem, three convolutions in each of three bottlenecks, three shortcuts


# --- wrappers and nesting --------------------------------------------------------------------------------------------


def same_weights(root, sample):
    expected = mapping.convert(t7.load(sample)).state_dict
    got = mapping.convert(root).state_dict
    return got.keys() == expected.keys() and all(torch.equal(got[k], v) for k, v in expected.items())


def test_wrapped_in_a_table_and_a_data_parallel_table(root, sample):
    parallel = make(root, "nn.DataParallelTable", modules=make_list(root, root, make(root, "nn.Sequential")))
    table = make_list(root)
    put(table, "model", parallel)
    put(table, "epoch", 90)
    assert same_weights(table, sample)
    other = make_list(root, root)  # the only module in a table, under any key
    assert same_weights(other, sample)


def test_nesting_makes_no_difference(root, sample):
    modules = root["modules"].as_list()
    stages = [block for stage in modules[3:6] for block in stage["modules"].as_list()]
    flat = make(root, "nn.Sequential", modules=make_list(root, *modules[:3], *stages, *modules[6:]))
    assert same_weights(flat, sample)
    wrapped = make(root, "nn.Sequential", modules=make_list(root, make(root, "nn.Identity"), root))
    assert same_weights(wrapped, sample)


def test_biases_ahead_of_a_batch_norm(root, sample):
    convolution, norm = root["modules"][1], root["modules"][2]
    expected = mapping.convert(t7.load(sample)).state_dict["bn1.running_mean"]
    put(convolution, "bias", norm["running_mean"])
    conversion = mapping.convert(root)
    assert torch.equal(conversion.state_dict["bn1.running_mean"], torch.zeros_like(expected))
    assert conversion.notes == ["1 convolution biases taken into running_mean"]


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(root, *parts):
    with pytest.raises(t7.T7Error) as caught:
        mapping.convert(root)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["modules[1].weight", "modules[2].running_var", f"{BRANCH}.modules[3].bias", f"{SHORTCUT}.modules[2].running_mean",
     "modules[9].bias"],
)  # fmt: skip
def test_a_missing_parameter_is_named(root, path):
    owner, _, name = path.rpartition(".")
    remove(find(root, owner), name)
    refused(root, owner, f"missing: {name}")


def test_left_over_parameters_are_named(root):
    put(root["modules"][3], "weight", root["modules"][2]["weight"])
    put(root["modules"][3], "running_mean", root["modules"][2]["weight"])
    refused(root, "left over", "modules[3].weight, modules[3].running_mean")


def test_left_over_networks_are_named(root, sample):
    table = make_list(root)
    put(table, "model", root)
    put(table, "best", t7.load(sample))
    refused(table, "left over, with no place in a ResNeXt: modules[1].weight, ", "and 62 more")


def test_a_module_that_appears_twice(root):
    put(find(root, f"{SHORTCUT}.modules"), 2, root["modules"][2])
    refused(root, "modules[2]", "appears more than once")


def test_a_network_that_contains_itself(root):
    put(find(root, "modules[4].modules"), 1, root)
    refused(root, "appears more than once")


@pytest.mark.parametrize(
    ("path", "field", "value", "cause"),
    [("modules[1]", "kW", 5, "kW 5, expected 3"), ("modules[1]", "dH", 2, "dH 2, expected 1"),
     ("modules[1]", "kH", 2.5, "expected a whole number as kH, got 2.5"),
     (f"{BRANCH}.modules[1].modules[4]", "groups", 2, "weight has shape (32, 8, 3, 3), expected (32, 16, 3, 3)"),
     ("modules[5].modules[1].modules[1].modules[1].modules[1].modules[4]", "groups", 2, "groups 2, expected 4"),
     (f"{BRANCH}.modules[1].modules[4]", "padW", 0, "padW 0, expected 1"),
     (f"{BRANCH}.modules[2]", "nInputPlane", 31, "nInputPlane 31, expected 32"),
     ("modules[2]", "eps", 0.001, "eps 0.001, expected 1e-05"),
     ("modules[7]", "kW", 7, "expected an average over a whole square feature map, got 8x7"),
     ("modules[7]", "dH", 0, "expected an average over a whole"),
     ("modules[7]", "divide", False, "expected an average over a whole"),
     ("modules[1]", "nInputPlane", True, "expected a whole number as nInputPlane, got True")],
)  # fmt: skip
def test_geometry_is_checked(root, path, field, value, cause):
    put(find(root, path), field, value)
    refused(root, path, cause)


@pytest.mark.parametrize(
    ("path", "class_name", "expected"),
    [("modules[1]", "nn.Linear", "expected convolution, got nn.Linear"),
     ("modules[3]", "nn.Tanh", "expected ReLU, got nn.Tanh"),
     (f"{BRANCH}.modules[3]", "nn.Identity", "expected batch normalization, but the modules end here"),
     ("modules[4].modules[1].modules[2]", "nn.CMulTable", "expected CAddTable, got nn.CMulTable"),
     ("modules[8]", "nn.Dropout", "expected view, got nn.Dropout")],
)  # fmt: skip
def test_another_layer_is_named_with_its_place(root, path, class_name, expected):
    find(root, path).class_name = class_name
    refused(root, path.rpartition(".")[0], expected)


def test_a_layer_after_the_classifier(root):
    append(root["modules"], make(root, "nn.LogSoftMax"))
    refused(root, "expected no further module, got nn.LogSoftMax")


def test_three_branches(root):
    append(find(root, f"{BLOCK}.modules"), make(root, "nn.Identity"))
    refused(root, BLOCK, "expected two branches, the bottleneck and its shortcut, got 3")


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


@pytest.mark.parametrize(
    ("path", "field", "value", "cause"),
    [("modules[2]", "running_var", 0.0, "running_var is 0.0 somewhere; expected more than 0"),
     ("modules[2]", "running_var", -1.0, "running_var is -1.0 somewhere"),
     ("modules[2]", "running_mean", float("nan"), "running_mean holds NaN or infinity"),
     ("modules[9]", "weight", float("inf"), "weight holds NaN or infinity")],
)  # fmt: skip
def test_values_that_cannot_be_right(root, sample, tmp_path, path, field, value, cause):
    tensor = find(root, path)[field]
    content = bytearray(sample.read_bytes())
    struct.pack_into("<f", content, tensor.storage.offset + 4 * (tensor.offset + 3), value)
    (tmp_path / "changed.t7").write_bytes(content)
    refused(t7.load(tmp_path / "changed.t7"), "changed.t7", path, cause)


def test_a_parameter_of_another_size(root):
    put(root["modules"][9], "bias", root["modules"][2]["bias"])
    refused(root, "modules[9]", "bias has shape (64,), expected (10,)")


def test_a_parameter_that_is_no_tensor(root):
    put(root["modules"][9], "bias", 3)
    refused(root, "modules[9]", "expected a tensor of real numbers as bias, got 3")


def test_what_is_no_network(root):
    index = make_list(root)
    put(index, "modelFile", "model_90.t7")
    refused(index, "the index of a checkpoint; the network is in the file 'model_90.t7'")
    refused(make_list(root, root, root), "expected one network, got 2 in a table with the keys 1, 2")
    refused(make_list(root), "expected one network, got 0", "(none)")
    refused(3.5, "expected a network or a table that holds one, got 3.5")
