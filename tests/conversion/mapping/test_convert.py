"""A Torch7 file as an architecture and a state_dict: the right values, of the right names, from the right place."""

import pytest
import torch

from conversion import mapping, t7
from resnext.architecture import Architecture
from tests.helpers.networks import relative_error
from tests.helpers.recorded import MODELS, torch7_output
from tests.helpers.torch7_trees import BRANCH, find, put


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
    assert conversion.exact == {}


def test_progress_sees_every_layer(root):
    seen = []

    def progress(items):
        seen.extend(items)
        return items

    mapping.convert(root, progress)
    assert len(seen) == 1 + 3 * 3 + 3  # stem, three convolutions in each of three bottlenecks, three shortcuts


def test_what_the_reader_left_out_is_among_the_notes(root):
    root.source.notes.append("2 further objects left out")
    assert mapping.convert(root).notes == ["2 further objects left out"]


def test_rounded_values_are_kept_as_they_were_in_every_form(root):
    put(root["modules"][1], "bias", root["modules"][2]["weight"])
    conversion = mapping.convert(root)
    norm = root["modules"][2]
    exact = torch.from_numpy(norm["running_mean"].numpy()).double() - torch.from_numpy(norm["weight"].numpy())
    assert list(conversion.exact) == ["bn1.running_mean"]
    for form in "CAB":
        double = conversion.in_form(form).unrounded()
        assert torch.equal(double.state_dict["bn1.running_mean"], exact)
        assert double.state_dict["fc.weight"].dtype == torch.float64


def test_a_state_dict_that_is_not_the_rounded_values_is_refused(root):
    put(root["modules"][1], "bias", root["modules"][2]["weight"])
    conversion = mapping.convert(root)
    conversion.state_dict["bn1.running_mean"][0] += 1
    with pytest.raises(t7.T7Error, match=r"bn1\.running_mean is not what the file's values round to"):
        conversion.unrounded()
