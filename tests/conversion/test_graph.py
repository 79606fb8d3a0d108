"""The literal graph: Torch7's own outputs, sharing, in-place layers, and everything unsupported named at once."""

import pickle

import pytest
import torch

from conversion import graph, layers, t7
from tests.conftest import FIXTURES, MODELS, relative_error, torch7_output
from tests.conversion.edit import append, find, make, make_list, put

LAYERS = sorted((FIXTURES / "layers").glob("*.t7"))


def torch_values(value):
    if isinstance(value, t7.Table):
        return [torch_values(item) for item in value.as_list()]
    return torch.from_numpy(value.numpy())


@pytest.fixture
def root(sample):
    return t7.load(sample)


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_layer_gives_torch7s_own_output(path):
    content = t7.load(path)
    with torch.no_grad():
        got = graph.to_module(content["module"])(torch_values(content["input"]))
    expected = torch_values(content["output"])
    assert got.shape == expected.shape
    assert relative_error(got, expected) <= 1e-6


def test_every_supported_class_has_a_genuine_file():
    covered = set()
    for path in [*LAYERS, *(FIXTURES / "variants").glob("*.t7")]:
        covered |= {obj.class_name for obj in t7.walk(t7.load(path)) if isinstance(obj, t7.TorchObject)}
    same_as_nn = {"cudnn.SpatialBatchNormalization", "fbnn.SpatialBatchNormalization"}
    # cudnn.SpatialAveragePooling, Identity, CAddTable and View stand in the models
    in_models = {"nn.CAddTable", "nn.Identity", "nn.View", "nn.ConcatTable", "nn.DataParallelTable"}
    assert set(layers.BUILDERS) | set(layers.CONTAINERS) <= covered | same_as_nn | in_models


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_gives_torch7s_own_output(models, name):
    images, expected = torch7_output(name)
    with torch.no_grad():
        assert relative_error(graph.to_module(t7.load(models[name]))(images), expected) <= 5e-5


def test_modules_are_found_by_their_path_in_the_file(root):
    module = graph.to_module(root)
    path = "modules[4].modules[1].modules[1].modules[1].modules[2]"
    convolution = graph.modules_by_path(module)[path]
    assert torch.equal(convolution.weight, torch.from_numpy(find(root, path)["weight"].numpy()))
    assert graph.modules_by_path(module)[""] is module
    assert not module.training


def test_a_literal_graph_can_be_pickled(root):
    images, _ = torch7_output("cifar10_resnext11_4x8d_C_nested")
    module = graph.to_module(root)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(module))(images), module(images))


def test_a_module_that_appears_twice_is_one_module():
    module = graph.to_module(t7.load(FIXTURES / "variants" / "s_sharedmod.t7")["model"])
    assert module[0] is module[2]
    assert module[0] is not module[1]


def test_flattened_parameters_stay_side_by_side_in_one_storage():
    """`getParameters()` made them views of one storage; PyTorch's copy must not take them apart."""
    parameters = list(graph.to_module(t7.load(FIXTURES / "variants" / "s_flat.t7")).parameters())
    ends = [(p.data_ptr(), p.data_ptr() + 4 * p.numel()) for p in parameters]
    span = max(end for _, end in ends) - min(start for start, _ in ends)
    assert span == 4 * sum(p.numel() for p in parameters)


def test_data_parallel_table_is_its_network():
    module = graph.to_module(t7.load(FIXTURES / "variants" / "dpt3_in.t7")["model"])
    assert isinstance(module[0], torch.nn.Linear)
    assert module.torch7_path == "model.modules[1]"


def test_in_place_layers_change_what_a_sibling_sees(root):
    """ConcatTable{Identity, ReLU in place}: in Torch7 the first output is the very tensor that the second changes."""
    relu = make(root, "nn.ReLU", inplace=True)
    table = make(root, "nn.ConcatTable", modules=make_list(root, make(root, "nn.Identity"), relu))
    first, second = graph.to_module(table)(torch.tensor([[-1.0, 2.0]]))
    assert first.tolist() == second.tolist() == [[0.0, 2.0]]
    put(relu, "inplace", False)
    first, second = graph.to_module(table)(torch.tensor([[-1.0, 2.0]]))
    assert first.tolist() == [[-1.0, 2.0]]


@pytest.mark.parametrize("inplace", [True, False])
def test_add_table_in_place_overwrites_its_first_input(root, inplace):
    terms = [torch.ones(2), torch.full((2,), 2.0), torch.full((2,), 4.0)]
    total = graph.to_module(make(root, "nn.CAddTable", inplace=inplace))(terms)
    assert total.tolist() == [7.0, 7.0]
    assert (total is terms[0]) == inplace
    assert terms[0].tolist() == ([7.0, 7.0] if inplace else [1.0, 1.0])


def test_everything_unsupported_is_named_at_once(root):
    append(root["modules"], make(root, "nn.Mystery"))
    find(root, "modules[4].modules[1].modules[2]").class_name = "nn.Riddle"
    find(root, "modules[5].modules[1].modules[2]").class_name = "nn.Riddle"
    with pytest.raises(graph.UnsupportedLayerError) as caught:
        graph.to_module(root)
    message = str(caught.value)
    assert "nn.Mystery at the root" in message
    assert "nn.Riddle at modules[4].modules[1].modules[2], modules[5].modules[1].modules[2]" in message
    assert isinstance(caught.value, t7.T7Error)


def refused(obj, *parts):
    with pytest.raises(t7.T7Error) as caught:
        graph.to_module(obj)
    for part in parts:
        assert part in str(caught.value)


def test_a_graph_that_contains_itself(root):
    append(find(root, "modules[4].modules"), root)
    refused(root, "the module contains itself")


def test_what_is_no_graph(root):
    refused(3, "expected a module such as nn.Sequential, got 3")
    refused(make(root, "nn.Sequential", modules=3), "expected a list as modules, got 3")
    refused(make(root, "nn.Sequential", modules=make_list(root, 3)), "expected modules, got 3")
    refused(make(root, "nn.DataParallelTable", modules=make_list(root)), "without a network")


@pytest.mark.parametrize(
    ("path", "field", "value", "cause"),
    [("modules[1]", "kW", "3", "expected a whole number as kW, got '3'"),
     ("modules[1]", "kW", 2, "weight has shape (64, 3, 3, 3); expected (64, 3, 3, 2)"),
     ("modules[1]", "groups", 5, "3 to 64 planes with kernel (3, 3) in 5 groups is no convolution"),
     ("modules[1]", "weight", 3, "expected a tensor of real numbers as weight, got 3"),
     ("modules[2]", "running_mean", 3, "expected a tensor as running_mean, got 3"),
     ("modules[2]", "eps", "x", "expected a number as eps, got 'x'"),
     ("modules[3]", "inplace", 1, "expected true or false as inplace, got 1"),
     ("modules[8]", "size", 3, "expected a storage as size, got 3"),
     ("modules[9]", "weight", 3, "expected a matrix as weight, got 3")],
)  # fmt: skip
def test_fields_that_make_no_sense(root, path, field, value, cause):
    put(find(root, path), field, value)
    refused(root, path, cause)
