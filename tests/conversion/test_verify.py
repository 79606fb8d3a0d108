"""The proof passes for what is right, and fails for each kind of thing that is wrong."""

import math
import sys

import numpy as np
import pytest
import torch

from conversion import graph, mapping, t7, verify
from tests.helpers.networks import relative_error
from tests.helpers.recorded import MODELS, SHARED
from tests.helpers.torch7_networks import dump, resnext
from tests.helpers.torch7_trees import Rewriter, find, make, make_list, put
from tests.helpers.torch7_writer import read

STAGES = ["stem", "layer1", "layer2", "layer3"]


@pytest.fixture
def conversion(sample):
    return mapping.convert(t7.load(sample))


@pytest.fixture
def imagenet(tmp_path):
    """A small network of the kind that torchvision has as well."""
    return mapping.convert(read(tmp_path, dump(resnext((1, 1, 1, 1), 2, 4, stem="imagenet", side=1))))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_genuine_files_are_proved(models, name):
    proof = verify.verify(mapping.convert(t7.load(models[name])))
    assert proof.passed
    assert [stage.name for stage in proof.stages] == STAGES
    assert proof.logits.relative_error <= 1e-6
    assert proof.logits.shape == (2, 100 if "cifar100" in name else 10)
    assert proof.double is None


def test_stages_of_a_form_c_file_are_bit_equal(conversion):
    proof = verify.verify(conversion)
    assert all(stage.bit_equal for stage in proof.stages)
    assert proof.first_difference in (None, "logits")  # pooling may sum in another order


def test_proof_is_plain_data_and_a_table(conversion):
    proof = verify.verify(conversion)
    data = proof.as_dict()
    assert data["passed"] is True
    assert data["stages"][1]["name"] == "layer1"
    assert data["stages"][1]["shape"] == (2, 256, 32, 32)
    assert data["tolerance"] == 1e-6
    assert data["dtype"] == "float32"
    table = proof.table()
    for part in ("layer3  2x1024x8x8   yes", "torchvision: not compared", "proved: logits within"):
        assert part in table


def large_biases(obj, fields):
    if obj.class_name == "cudnn.SpatialConvolution":
        fields["bias"] = np.full(fields["nOutputPlane"], 100.0)
    if obj.class_name == "nn.SpatialBatchNormalization":
        fields["running_mean"] = fields["running_mean"].numpy() + np.float32(100)
    return fields


@pytest.mark.parametrize("form", "ABC")
def test_double_precision_decides_where_float32_is_beyond_its_limit(sample, tmp_path, form):
    path = tmp_path / "biases.t7"
    path.write_bytes(Rewriter(change=large_biases).dump(t7.load(sample)))
    proof = verify.verify(mapping.convert(t7.load(path)).in_form(form))
    assert proof.passed
    assert (proof.dtype, proof.tolerance) == ("float64", 1e-12)
    assert 1e-6 < proof.logits.relative_error < 1e-4
    assert proof.double.relative_error <= 1e-12
    assert "logits in double" in proof.table()
    assert "in double precision (" in proof.reason


@pytest.mark.parametrize(
    ("name", "stage"),
    [("conv1.weight", "stem"), ("layer1.0.conv2.weight", "layer1"), ("layer2.0.downsample.1.running_mean", "layer2"),
     ("layer3.0.bn3.bias", "layer3"), ("fc.weight", "logits")],
)  # fmt: skip
def test_a_wrong_weight_fails_and_names_the_stage(conversion, name, stage):
    with torch.no_grad():
        conversion.state_dict[name].mul_(1.01)
    proof = verify.verify(conversion)
    assert not proof.passed
    assert proof.first_difference == stage
    assert f"first to differ: {stage}, by " in proof.reason
    assert "NOT PROVED" in proof.table()


def test_swapped_kernel_axes_fail(conversion):
    weight = conversion.state_dict["layer1.0.conv2.weight"]
    conversion.state_dict["layer1.0.conv2.weight"] = weight.transpose(2, 3).contiguous()
    assert not verify.verify(conversion).passed


def test_nan_fails(conversion):
    conversion.state_dict["fc.bias"][0] = math.nan
    proof = verify.verify(conversion)
    assert not proof.passed
    assert proof.double is None


def test_a_graph_that_does_more_than_the_mapping_saw_fails(conversion):
    """The two readings are independent: what one of them misses, the other does not."""
    put(find(conversion.model, "modules[2]"), "eps", 0.1)
    proof = verify.verify(conversion)
    assert not proof.passed
    assert proof.first_difference == "stem"


def test_a_graph_that_cannot_be_run_is_refused(conversion):
    find(conversion.model, "modules[7]").class_name = "nn.Mystery"
    with pytest.raises(graph.UnsupportedLayerError, match=r"nn.Mystery at modules\[7\]"):
        verify.verify(conversion)


def test_a_graph_whose_shapes_do_not_fit_is_refused(conversion):
    put(find(conversion.model, "modules[7]"), "kW", 50)
    with pytest.raises(t7.T7Error, match="the file's graph cannot be run: "):
        verify.verify(conversion)


def test_a_layer_that_does_nothing_along_a_dimension_that_is_not_there_is_refused(sample):
    root = t7.load(sample)
    nothing = make(root, "nn.Padding", dim=9, pad=0)
    put(root["modules"], 3, make(root, "nn.Sequential", modules=make_list(root, nothing, root["modules"][3])))
    with pytest.raises(t7.T7Error, match="the file's graph cannot be run: "):
        verify.verify(mapping.convert(root))


def test_the_proof_does_not_depend_on_the_number_of_threads(conversion):
    threads = torch.get_num_threads()
    proofs = []
    for count in (1, 2):
        torch.set_num_threads(count)
        proofs.append(verify.verify(conversion))
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert proofs[0] == proofs[1]


def test_torchvision_takes_part_where_it_has_the_network(torchvision, imagenet):
    proof = verify.verify(imagenet)
    assert proof.passed
    assert proof.torchvision == "bit-equal logits"


def test_torchvision_that_differs_fails_the_proof(torchvision, imagenet, monkeypatch):
    forward = torchvision.models.ResNet.forward
    monkeypatch.setattr(torchvision.models.ResNet, "forward", lambda self, x: forward(self, x) * 1.001)
    proof = verify.verify(imagenet)
    assert not proof.passed
    assert proof.reason.startswith("torchvision's model gives other logits: logits within")


def test_torchvision_that_cannot_be_imported_is_said(imagenet, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models.resnet", None)
    proof = verify.verify(imagenet)
    assert proof.passed
    assert proof.torchvision.startswith("not compared; it cannot be imported here (")


@pytest.mark.parametrize(
    ("got", "expected", "equal", "relative"),
    [([1.0, 2.0], [1.0, 2.0], True, 0.0), ([0.0, 0.0], [0.0, 0.0], True, 0.0),
     ([1.0, 0.0], [0.0, 0.0], False, math.inf),
     ([3.0, 4.5], [3.0, 4.0], False, 0.1), ([1.0], [1.0, 2.0], False, math.inf)],
)  # fmt: skip
def test_comparison(got, expected, equal, relative):
    result = verify.compare("x", torch.tensor(got), torch.tensor(expected))
    assert result.bit_equal == equal
    assert result.relative_error == pytest.approx(relative)


@pytest.mark.slow
def test_full_size_file(full_size, torchvision):
    conversion = mapping.convert(t7.load(full_size))
    assert conversion.architecture.name == "resnext50_32x4d"
    proof = verify.verify(conversion)
    assert proof.passed
    assert proof.first_difference in (None, "logits")
    assert proof.torchvision == "bit-equal logits"
    model = conversion.architecture.build_empty()
    model.load_state_dict(conversion.state_dict, assign=True)
    with np.load(SHARED / "models" / "resnext_50_32x4d.npz") as arrays, torch.no_grad():
        got = model.eval()(torch.from_numpy(arrays["input"]))
        assert relative_error(got, torch.from_numpy(arrays["output"])) <= 5e-5
