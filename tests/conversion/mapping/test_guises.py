"""The same network in every guise that Torch7 can give it: precisions, layouts, old classes, encodings."""

import numpy as np
import pytest
import torch

from conversion import mapping, t7, verify
from tests.conversion.rewrite import Rewriter
from tests.conversion.t7.t7_writer import ENCODINGS

BATCH_NORM = "nn.SpatialBatchNormalization"


@pytest.fixture(scope="module")
def original(sample):
    return t7.load(sample)


@pytest.fixture(scope="module")
def expected(original):
    return mapping.convert(original).state_dict


def convert(tmp_path, original, **guise):
    path = tmp_path / "guise.t7"
    path.write_bytes(Rewriter(**guise).dump(original))
    return mapping.convert(t7.load(path))


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
    """As nn.SpatialConvolutionMM keeps it: a matrix, and `padding` for both directions."""
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


def test_running_std_that_gives_no_variance_is_refused(original, tmp_path):
    def zero(obj, fields):
        if obj.class_name == BATCH_NORM:
            fields |= {"running_std": np.full(fields.pop("running_var").shape, 1e4)}
        return fields

    with pytest.raises(t7.T7Error, match=r"modules\[2\]: running_var is -9\.\d+e-06 somewhere; expected more than 0"):
        convert(tmp_path, original, change=zero)


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


def test_double_that_does_not_fit_float32_is_refused(original, tmp_path):
    def huge(obj, fields):
        if obj.class_name == "nn.Linear":
            fields["bias"] = np.full(10, 1e300)
        return fields

    with pytest.raises(t7.T7Error, match=r"modules\[9\]: bias holds NaN or infinity"):
        convert(tmp_path, original, change=huge, kind="Double")
