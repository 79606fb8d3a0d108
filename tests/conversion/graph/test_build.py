"""The literal graph: Torch7's own outputs, sharing, in-place layers, and everything unsupported named at once."""

import pickle

import pytest
import torch

from conversion import graph, t7
from tests.helpers.networks import relative_error
from tests.helpers.recorded import FIXTURES, LAYERS, MODELS, SHARED, torch7_output, torch_values
from tests.helpers.torch7_networks import Layer, Net, build, relu, seq, table
from tests.helpers.torch7_trees import append, find, make, make_list, put

# What later classes of nn and other packages do, by Torch7. A few are among the fixtures.
CLASSES = sorted((SHARED / "classes").glob("*.t7")) or sorted((FIXTURES / "classes").glob("*.t7"))
NOT_RUN = {
    "BatchNormalization_single": ValueError, "SpatialBatchNormalization_single": ValueError,
    "SpatialFullConvolution_two_inputs": TypeError, "Squeeze_all_ones": RuntimeError,
}  # fmt: skip


@pytest.fixture
def root(sample):
    return t7.load(sample)


@pytest.fixture(scope="module", params=LAYERS, ids=lambda path: path.stem)
def recorded(request):
    """A layer of a file by Torch7, its input, and Torch7's own output."""
    content = t7.load(request.param)
    return graph.to_module(content["module"]), torch_values(content["input"]), torch_values(content["output"])


def run(module, given):
    with torch.no_grad():
        return module(given.clone())


def test_layer_gives_torch7s_own_output(recorded):
    module, given, expected = recorded
    got = run(module, given)
    assert got.shape == expected.shape
    assert relative_error(got, expected) <= 1e-6


@pytest.mark.parametrize("path", CLASSES, ids=lambda path: path.stem)
def test_other_class_gives_torch7s_own_output_or_is_refused(path):
    try:
        content = t7.load(path)
        module = graph.to_module(content["module"])
        given, expected = torch_values(content["input"]), torch_values(content["output"])
    except t7.T7Error:
        return
    with torch.no_grad():
        if path.stem in NOT_RUN:
            with pytest.raises(NOT_RUN[path.stem]):
                module(given)
        else:
            assert_close(module(given), expected)


def assert_close(got, expected):
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
        return
    assert got.shape == expected.shape
    assert (got.double() - expected.double()).norm() <= 1e-5 * expected.double().norm()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_layer_can_be_scripted_and_pickled(recorded):
    module, given, _ = recorded
    expected = run(module, given)
    assert torch.equal(run(torch.jit.script(module), given), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(module)), given), expected)


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


def values(layers, x):
    out = layers(torch.tensor(x))
    return [value.tolist() for value in out]


def test_in_place_in_one_branch_is_seen_by_those_that_share_its_memory(tmp_path):
    """What copies in Torch7 keeps its values: Narrow, Select, Transpose, dropout. What shares them does not."""
    views = [
        Layer("nn.Identity"), Layer("nn.Squeeze"), Layer("nn.Unsqueeze", pos=1), Layer("nn.Contiguous"),
        Layer("nn.Replicate", nfeatures=1), Layer("nn.Copy", updateOutput="a function"), Layer("nn.TotalVariation"),
        Layer("nn.Dropout", p=0.5, v2=True, inplace=True),
    ]  # fmt: skip
    copies = [
        Layer("nn.Narrow", dimension=1, index=1, length=2), Layer("nn.Select", dimension=1, index=1), Layer("nn.Copy"),
        Layer("nn.Transpose", permutations=[]), Layer("nn.Dropout", p=0.5, v2=True), Layer("nn.Padding", dim=1, pad=0),
        Layer("nn.SpatialZeroPadding", pad_l=0, pad_r=0, pad_t=0, pad_b=0), Layer("nn.CMulTable"),
        Layer("nn.JoinTable", dimension=1), Layer("nn.SpatialUpSamplingNearest", scale_factor=1),
    ]  # fmt: skip
    for layer in [*views, *copies]:
        first = (
            seq(table(Layer("nn.Identity")), layer) if layer.class_name in ("nn.CMulTable", "nn.JoinTable") else layer
        )
        x = [[[-1.0, 2.0]]] if layer.class_name.startswith("nn.Spatial") else [-1.0, 2.0]
        before, _ = values(build(tmp_path, table(first, relu())), x)
        flat = torch.tensor(before).flatten().tolist()
        assert flat[0] == (0.0 if layer in views else -1.0), layer.class_name


def test_in_place_in_a_branch_of_concat_and_parallel_table(tmp_path):
    order = [relu(), Layer("nn.Identity")]
    assert build(tmp_path, table(*order, kind="nn.Concat", dimension=1))(torch.tensor([-1.0])).tolist() == [0.0, 0.0]
    module = build(tmp_path, table(*order[::-1], kind="nn.Concat", dimension=1))
    assert module(torch.tensor([-1.0])).tolist() == [0.0, 0.0]  # joined only when all branches have run
    both = seq(
        table(Layer("nn.Identity"), Layer("nn.Identity")), table(Layer("nn.Identity"), relu(), kind="nn.ParallelTable")
    )
    assert values(build(tmp_path, both), [-1.0]) == [[0.0], [0.0]]


def test_a_module_used_again_while_its_result_is_in_use_is_refused(tmp_path):
    """Torch7 would overwrite the first result; twins by `clone` are two objects and fine."""
    net = Net()
    twice, other = net.linear(2, 2), net.linear(2, 2)
    pair = table(Layer("nn.Identity"), Layer("nn.Identity"))
    for root in (
        seq(pair, table(twice, twice, kind="nn.ParallelTable"), Layer("nn.CAddTable")),
        seq(twice, table(Layer("nn.Identity"), twice), Layer("nn.CAddTable")),
        seq(twice, twice),
        table(seq(twice, Layer("nn.Identity")), seq(other, twice), kind="nn.Concat", dimension=1),
    ):
        with pytest.raises(t7.T7Error, match="appears again while its first result is in use"):
            build(tmp_path, root)
    x = torch.rand(1, 2)
    module = build(tmp_path, seq(twice, other, twice))
    assert module[0] is module[2]
    assert torch.equal(module(x), module[0](module[1](module[0](x))))
    one = build(tmp_path, table(seq(twice, Layer("nn.Tanh")), twice, kind="nn.Concat", dimension=2))
    assert one(x).shape == (1, 4)


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
