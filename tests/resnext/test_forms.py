"""Figure 3 of the paper: the three forms are one function, and their weights are rewritten without computing."""

import copy
import functools
import io
import itertools

import pytest
import torch

import resnext
import resnext.zoo
from resnext.architecture import Architecture
from resnext.forms import convert_state_dict, find_form
from tests.helpers.networks import randomize, relative_error

SMALL = Architecture((2, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)
ARCHITECTURES = [
    SMALL,
    Architecture((1, 1, 1, 1), cardinality=2, base_width=12, num_classes=5, shortcut="C"),
    Architecture((1, 1, 1), cardinality=1, base_width=16, stem="cifar"),
]
PAIRS = list(itertools.product("ABC", "ABC"))
STAGES = ("maxpool", "layer1", "layer2", "layer3", "layer4", "fc")


@functools.cache
def weights_of(architecture):
    torch.manual_seed(0)
    return randomize(architecture.build()).state_dict()


def model_of(architecture, form="C", dtype=torch.float32):
    state_dict = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights_of(architecture).items()}
    model = architecture.build_empty(form=form)
    copies = {name: value.clone() for name, value in convert_state_dict(state_dict, "C", form).items()}
    model.load_state_dict(copies, strict=True, assign=True)
    return model


def run(model, images):
    """What each stage gives."""
    outputs = {}
    hooks = [
        getattr(model, name).register_forward_hook(lambda *args, name=name: outputs.update({name: args[2].clone()}))
        for name in STAGES
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return outputs


def as_bytes(state_dict):
    file = io.BytesIO()
    torch.save(dict(state_dict), file)
    return file.getvalue()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_names_shapes_and_order_are_those_of_the_model(architecture, source, target):
    converted = convert_state_dict(model_of(architecture, source).state_dict(), source, target)
    expected = architecture.build_empty(form=target).state_dict()
    assert list(converted) == list(expected)
    assert [v.shape for v in converted.values()] == [v.shape for v in expected.values()]
    assert all(value.is_contiguous() for value in converted.values())


def test_there_and_back_gives_the_same_bytes():
    state_dict = model_of(ARCHITECTURES[1]).state_dict()
    for name, value in state_dict.items():
        if name.endswith("num_batches_tracked"):
            value.fill_(17)
    before = as_bytes(state_dict)
    there = convert_state_dict(convert_state_dict(state_dict, "C", "A"), "A", "B")
    assert as_bytes(there) != before
    assert as_bytes(convert_state_dict(there, "B", "C")) == before
    assert as_bytes(state_dict) == before


def test_tensors_of_paths_are_not_views_of_one_another():
    converted = convert_state_dict(model_of(SMALL).state_dict(), "C", "A")
    assert converted["layer1.0.paths.1.conv1.weight"].untyped_storage().nbytes() == 8 * 64 * 4


def test_nothing_that_changes_is_shared(tmp_path):
    """One counter for all paths would count every one of them."""
    torch.save(weights_of(SMALL), tmp_path / "c.pth")
    model = resnext.from_checkpoint(tmp_path / "c.pth", form="A")
    model(torch.randn(2, 3, 32, 32))
    assert model.layer1[0].paths[0].bn1.num_batches_tracked == 1
    joined = convert_state_dict(model.state_dict(), "A", "C")
    joined["layer1.0.bn1.num_batches_tracked"].fill_(7)
    assert model.layer1[0].paths[0].bn1.num_batches_tracked == 1


def test_keys_say_the_path():
    architecture = Architecture((1, 1, 1), cardinality=8, base_width=4, stem="cifar")
    c = architecture.build().state_dict()
    a = convert_state_dict(c, "C", "A")
    assert torch.equal(a["layer1.0.paths.7.conv1.weight"], c["layer1.0.conv1.weight"][28:])
    assert torch.equal(a["layer1.0.paths.7.conv2.weight"], c["layer1.0.conv2.weight"][28:])
    assert torch.equal(a["layer1.0.paths.7.conv3.weight"], c["layer1.0.conv3.weight"][:, 28:])
    assert torch.equal(a["layer1.0.bn3.weight"], c["layer1.0.bn3.weight"])
    b = convert_state_dict(c, "C", "B")
    assert torch.equal(b["layer1.0.conv3.weight"], c["layer1.0.conv3.weight"])
    assert "layer1.0.paths.7.conv3.weight" not in b
    assert [find_form(names) for names in (a, b, c, [])] == ["A", "B", "C", "C"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_every_stage_and_the_statistics_agree(architecture, dtype, tolerance, training):
    size = 32 if architecture.stem == "cifar" else 64
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    models = {form: model_of(architecture, form, dtype).train(training) for form in "ABC"}
    outputs = {form: run(model, images) for form, model in models.items()}
    statistics = {form: convert_state_dict(model.state_dict(), form, "C") for form, model in models.items()}
    for form in "AB":
        for name in STAGES:
            assert relative_error(outputs[form][name], outputs["C"][name]) < tolerance, name
        for name, value in statistics[form].items():
            if not name.endswith("num_batches_tracked"):
                assert relative_error(value, statistics["C"][name]) < tolerance, name
            assert not name.endswith("num_batches_tracked") or value == int(training)
    assert training == bool((statistics["C"]["bn1.running_mean"] != weights_of(architecture)["bn1.running_mean"]).any())


def test_every_stage_of_the_real_network_agrees_in_training():
    """In float32, each stage on the same input: a deep network in training magnifies what was rounded off before."""
    network = Architecture((3, 4, 6, 3))
    models = [model_of(network, name).train() for name in "CA"]
    x = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    for name in STAGES[1:5]:
        stages = [getattr(model, name) for model in models]
        with torch.no_grad():
            expected, found = (stage(x) for stage in stages)
        assert relative_error(found, expected) < 1e-5, name
        variances = [stage[-1].bn3.running_var for stage in stages]
        assert relative_error(*variances[::-1]) < 1e-5, name
        x = expected


def test_gradients_agree():
    gradients = {}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    for form in "ABC":
        model = model_of(SMALL, form, torch.float64)
        model(images).square().sum().backward()
        values = {**model.state_dict(), **{name: value.grad for name, value in model.named_parameters()}}
        gradients[form] = convert_state_dict(values, form, "C")
    for form in "AB":
        for name, value in gradients[form].items():
            assert relative_error(value, gradients["C"][name]) < 1e-10, name


@pytest.mark.parametrize("options", [{}, {"zero_init_residual": True}])
def test_the_same_seed_makes_the_same_network(options):
    states = []
    for form in "ABC":
        torch.manual_seed(3)
        states.append(convert_state_dict(SMALL.build(form=form, **options).state_dict(), form, "C"))
    assert as_bytes(states[0]) == as_bytes(states[1]) == as_bytes(states[2])


@pytest.mark.parametrize("form", "ABC")
@pytest.mark.parametrize("kind", ["pth", "t7"])
@pytest.mark.filterwarnings("ignore:.*form B joined")
def test_any_file_into_any_form(models, tmp_path, form, kind):
    """The .t7 is of form B, the .pth of form A."""
    path = models["cifar10_resnext11_4x8d_B"]
    with pytest.warns(UserWarning, match="24 convolutions of form B joined") as seen:
        expected = resnext.from_checkpoint(path).state_dict()
    assert seen[0].filename == __file__
    if kind == "pth":
        path = tmp_path / "a.pth"
        torch.save(convert_state_dict(expected, "C", "A"), path)
    model = resnext.from_checkpoint(path, form=form)
    assert model.form == form
    converted = convert_state_dict(model.state_dict(), form, "C")
    assert list(converted) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in converted.items())


def test_damaged_files_of_form_a_are_named(tmp_path):
    state_dict = convert_state_dict(weights_of(SMALL), "C", "A")
    state_dict["layer2.0.paths.1.conv2.weight"] = torch.zeros(3, 3, 3, 3)
    torch.save(state_dict, tmp_path / "a.pth")
    with pytest.raises(resnext.WeightsError, match=r"a.pth: layer2.0.paths.1.conv2.weight: \(3, 3, 3, 3\), expected"):
        resnext.from_checkpoint(tmp_path / "a.pth")


def test_form_in_the_name_or_as_an_option(tmp_path, monkeypatch):
    monkeypatch.setitem(resnext.zoo.ARCHITECTURES, SMALL.name, SMALL)
    torch.save(weights_of(SMALL), tmp_path / "c.pth")
    for name, options in (
        (f"{SMALL.name}_typeA", {}),
        (SMALL.name, {"form": "A"}),
        (f"{SMALL.name}_typeA", {"form": "A"}),
    ):
        assert resnext.create(name, weights=tmp_path / "c.pth", **options).form == "A"
    with pytest.raises(ValueError, match=f"{SMALL.name}_typeA and form='B' cannot be combined"):
        resnext.create(f"{SMALL.name}_typeA", form="B")


def changed(state_dict, **changes):
    result = copy.copy(dict(state_dict))
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del result[name]
        else:
            result[name] = value
    return result


def test_what_cannot_be_rewritten_is_refused():
    c = SMALL.build().state_dict()
    group_norm = SMALL.build(norm_layer=functools.partial(torch.nn.GroupNorm, 4))
    a = convert_state_dict(c, "C", "A")
    for state_dict, source, target, message in (
        (c, "D", "A", "unknown form 'D'; expected one of A, B, C"),
        (c, "C", "c", "unknown form 'c'"),
        (c, "A", "C", "expected weights of form A, got those of form C"),
        (a, "B", "C", "expected weights of form B, got those of form A"),
        (changed(c, layer2__0__bn2__running_var=None), "C", "A",
         "missing: layer2.0.bn2.running_var; the forms are the same function only with batch norms"),
        (group_norm.state_dict(), "C", "B", "missing: layer1.0.bn1.running_var; .* only with batch norms"),
        (changed(a, layer1__0__paths__2__bn1__weight=None), "A", "C",
         "missing: layer1.0.paths.2.bn1.weight, of 4 paths"),
        (changed(a, layer1__0__paths__2__bn1__num_batches_tracked=torch.tensor(3)), "A", "C",
         "layer1.0.bn1.num_batches_tracked: the paths have different values"),
        (changed(c, layer1__0__conv2__weight=None), "C", "A", "missing: layer1.0.conv2.weight, for form C"),
        (changed(c, layer1__0__conv2__weight=torch.zeros(7, 2, 3, 3)), "C", "B", r"got \(7, 2, 3, 3\)"),
        (changed(c, layer1__0__conv1__weight=torch.zeros(7, 64, 1, 1)), "C", "B", "cannot be cut into 4 paths"),
        ({f"module.{name}": value for name, value in a.items()}, "A", "C", "got 'module.' before them; remove it"),
        ({"fc.weight": torch.zeros(2, 2)}, "C", "A", "expected the weights of a ResNeXt, got no bottleneck"),
        ({**a, **c}, "A", "C", "left over: layer1.0.conv1.weight, which form A has on its paths"),
        ({name: value for name, value in a.items() if "1.0.paths.3" not in name}, "A", "C",
         "missing: layer1.0.paths.3.conv1.weight, of 4 paths"),
        (changed(a, layer1__0__paths__2__conv2__weight=torch.zeros(3, 3, 3, 3)), "A", "B",
         r"layer1.0.paths.2.conv2.weight: \(3, 3, 3, 3\), expected \(8, 8, 3, 3\) as on path 0"),
        ({name: torch.tensor(1.0) if name.endswith("conv1.weight") else value for name, value in a.items()}, "A", "C",
         "expected the weight of a convolution"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            convert_state_dict(state_dict, source, target)
