"""Every number of a file is read once, as float32, and whatever cannot be right is refused with its place.

The same network in precisions, layouts and encodings of its own; old classes; missing and computed vectors.
"""

import struct

import numpy as np
import pytest
import torch

from conversion import mapping, t7, verify
from tests.conversion.mapping.conftest import refused
from tests.helpers.torch7_trees import BRANCH, SHORTCUT, Rewriter, find, put, remove
from tests.helpers.torch7_writer import ENCODINGS

BATCH_NORM = "nn.SpatialBatchNormalization"


@pytest.fixture(scope="module")
def original(sample):
    return t7.load(sample)


@pytest.fixture(scope="module")
def expected(original):
    return mapping.convert(original).state_dict


def rewrite(tmp_path, original, **guise):
    path = tmp_path / "guise.t7"
    path.write_bytes(Rewriter(**guise).dump(original))
    return t7.load(path)


def convert(tmp_path, original, **guise):
    return mapping.convert(rewrite(tmp_path, original, **guise))


def assert_same(conversion, expected, **tolerance):
    assert conversion.state_dict.keys() == expected.keys()
    for name, value in expected.items():
        assert conversion.state_dict[name].dtype == value.dtype
        torch.testing.assert_close(conversion.state_dict[name], value, **{"rtol": 0, "atol": 0, **tolerance})
    assert verify.verify(conversion).passed


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings(original, expected, tmp_path, encoding):
    conversion = convert(tmp_path, original, writer=ENCODINGS[encoding])
    assert_same(conversion, expected)
    assert conversion.notes == []


def test_double(original, expected, tmp_path):
    conversion = convert(tmp_path, original, kind="Double")
    assert_same(conversion, expected)
    assert conversion.notes == ["67 float64 tensors rounded to float32"]
    assert conversion.exact == {}  # all of them are float32 numbers


def test_half(original, expected, tmp_path):
    conversion = convert(tmp_path, original, kind="Half")
    halved = {name: value.half().float() if value.is_floating_point() else value for name, value in expected.items()}
    assert_same(conversion, halved)
    assert conversion.notes == ["67 float16 tensors turned into float32"]


def test_flattened_parameters(original, expected, tmp_path):
    conversion = convert(tmp_path, original, flat=True)
    assert_same(conversion, expected)
    pointers = {value.untyped_storage().data_ptr() for value in conversion.state_dict.values()}
    assert len(pointers) == len(conversion.state_dict)  # each a tensor of its own, so that the .pth is the same


def old_convolution(obj, fields):
    """As nn.SpatialConvolutionMM keeps it: a matrix, `padding` for both directions, and no stride where it is 1."""
    if obj.class_name == "cudnn.SpatialConvolution":
        weight = fields["weight"].numpy()
        fields["weight"] = weight.reshape(len(weight), -1)
        assert fields["padW"] == fields.pop("padH")
        fields["padding"] = fields.pop("padW")
        if fields["groups"] == 1:
            del fields["groups"]
    return fields


def test_matrices_as_weights(original, expected, tmp_path):
    assert_same(convert(tmp_path, original, change=old_convolution), expected)


def test_only_an_old_convolution_goes_without_a_stride(root, sample):
    expected = mapping.convert(t7.load(sample)).state_dict
    for name in ("dW", "dH"):
        remove(root["modules"][1], name)
    refused(root, "modules[1]", "no field dH")
    root["modules"][1].class_name = "nn.SpatialConvolutionMM"
    assert_same(mapping.convert(root), expected)


# --- running statistics -----------------------------------------------------------------------------------------------


def old_batch_norm(obj, fields):
    """Before version 2 of the class: `running_std`, 1 / sqrt(var + eps)."""
    if obj.class_name == BATCH_NORM:
        variance = fields.pop("running_var").numpy().astype(np.float64)
        fields |= {"running_std": (variance + fields["eps"]) ** -0.5, "<version>": 1}
    return fields


@pytest.mark.parametrize("kind", ["Float", "Double"])
def test_running_std(original, expected, tmp_path, kind):
    conversion = convert(tmp_path, original, change=old_batch_norm, kind=kind)
    assert_same(conversion, expected, rtol=1e-6 if kind == "Float" else 1e-7)
    assert "13 running_std turned into running_var" in conversion.notes


def dead(excess):
    """`running_std` of channels that died, a little above 1 / sqrt(eps)."""

    def change(obj, fields):
        if obj.class_name == BATCH_NORM:
            fields |= {"running_std": np.full(fields.pop("running_var").shape, 1e-5**-0.5 * (1 + excess))}
        return fields

    return change


@pytest.mark.parametrize("kind", ["Float", "Double"])
def test_a_running_std_that_rounding_raised_gives_a_variance_of_0(original, tmp_path, kind):
    conversion = convert(tmp_path, original, change=dead(2.4e-7), kind=kind)
    assert (conversion.state_dict["layer1.0.bn1.running_var"] == 0).all()
    assert verify.verify(conversion).passed


@pytest.mark.parametrize("excess", [1e-5, 0.1, 30])
def test_running_std_that_gives_no_variance_is_refused(original, tmp_path, excess):
    refused(
        rewrite(tmp_path, original, change=dead(excess)),
        "modules[2]: running_var is -",
        "expected at least 0 everywhere",
    )


def changed(sample, tmp_path, path, field, value):
    """The sample with one number of a tensor overwritten."""
    tensor = find(t7.load(sample), path)[field]
    content = bytearray(sample.read_bytes())
    struct.pack_into("<f", content, tensor.storage.offset + 4 * (tensor.offset + 3), value)
    (tmp_path / "changed.t7").write_bytes(content)
    return t7.load(tmp_path / "changed.t7")


@pytest.mark.parametrize(
    ("value", "note"),
    [(0.0, "1 running variances of 0 (channels that died)"), (1e-40, "1 running variances that are denormal")],
)
def test_variances_of_0_and_denormals_are_counted(sample, tmp_path, value, note):
    conversion = mapping.convert(changed(sample, tmp_path, "modules[2]", "running_var", value))
    assert conversion.notes == [note]
    assert conversion.state_dict["bn1.running_var"][3] == np.float32(value)
    assert verify.verify(conversion).passed


@pytest.mark.parametrize(
    ("path", "field", "value", "cause"),
    [("modules[2]", "running_var", -1.0, "running_var is -1.0 somewhere"),
     ("modules[2]", "running_var", -1e-40, "somewhere; expected at least 0"),
     ("modules[2]", "running_mean", float("nan"), "running_mean holds NaN or infinity"),
     ("modules[9]", "weight", float("inf"), "weight holds NaN or infinity")],
)  # fmt: skip
def test_values_that_cannot_be_right(sample, tmp_path, path, field, value, cause):
    refused(changed(sample, tmp_path, path, field, value), "changed.t7", path, cause)


@pytest.mark.parametrize("eps", [9.999999747378752e-06, 1e-5])
def test_an_eps_that_went_through_float32(root, sample, eps):
    expected = mapping.convert(t7.load(sample)).state_dict
    put(root["modules"][2], "eps", eps)
    assert_same(mapping.convert(root), expected)


# --- biases, and what may be absent -----------------------------------------------------------------------------------


def biased(value):
    def change(obj, fields):
        if obj.class_name == "cudnn.SpatialConvolution":
            fields["bias"] = np.full(fields["nOutputPlane"], value)
        return fields

    return change


def test_zero_biases_of_an_old_cudnn_are_left_out(original, expected, tmp_path):
    conversion = convert(tmp_path, original, change=biased(0.0))
    assert_same(conversion, expected)
    assert conversion.notes == ["13 convolution biases that are all zero left out"]


def test_other_biases_are_taken_into_the_running_mean(original, expected, tmp_path):
    conversion = convert(tmp_path, original, change=biased(0.125))
    means = {k: v - 0.125 if k.endswith("running_mean") else v for k, v in expected.items()}
    assert_same(conversion, means)
    assert conversion.notes == ["13 convolution biases taken into running_mean"]


def test_batch_norm_without_weight_and_bias(root):
    for name in ("weight", "bias"):
        remove(root["modules"][2], name)
    put(root["modules"][2], "affine", False)
    conversion = mapping.convert(root)
    assert (conversion.state_dict["bn1.weight"] == 1).all()
    assert (conversion.state_dict["bn1.bias"] == 0).all()
    assert conversion.notes == [
        "1 batch normalization without bias: 0 everywhere", "1 batch normalization without weight: 1 everywhere",
    ]  # fmt: skip
    assert verify.verify(conversion).passed


@pytest.mark.parametrize("absent", [remove, lambda obj, name: put(obj, name, False)])
def test_linear_without_bias(root, absent):
    absent(root["modules"][9], "bias")
    conversion = mapping.convert(root)
    assert (conversion.state_dict["fc.bias"] == 0).all()
    assert conversion.notes == ["1 linear without bias: 0 everywhere"]
    assert verify.verify(conversion).passed


@pytest.mark.parametrize(
    "path",
    ["modules[1].weight", "modules[2].running_var", f"{SHORTCUT}.modules[2].running_mean", "modules[9].weight"],
)
def test_a_missing_parameter_is_named(root, path):
    owner, _, name = path.rpartition(".")
    remove(find(root, owner), name)
    refused(root, owner, name)


def test_a_parameter_of_another_size(root):
    put(root["modules"][9], "bias", root["modules"][2]["bias"])
    refused(root, "modules[9]", "bias has shape (64,)", "(10,)")


@pytest.mark.parametrize("value", [3, True, "x"])
def test_a_parameter_that_is_no_tensor(root, value):
    put(root["modules"][9], "bias", value)
    refused(root, "modules[9]", f"expected a tensor of real numbers as bias, got {value!r}")


def test_double_that_does_not_fit_float32_is_refused(original, tmp_path):
    def huge(obj, fields):
        if obj.class_name == "nn.Linear":
            fields["bias"] = np.full(10, 1e300)
        return fields

    refused(rewrite(tmp_path, original, change=huge, kind="Double"), "modules[9]: bias holds NaN or infinity")


def test_convolutions_with_biases_in_a_branch(root):
    put(find(root, f"{BRANCH}.modules[2]"), "bias", find(root, f"{BRANCH}.modules[3]")["running_mean"])
    conversion = mapping.convert(root)
    assert (conversion.state_dict["layer1.0.bn3.running_mean"] == 0).all()
