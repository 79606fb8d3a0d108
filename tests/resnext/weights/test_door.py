"""Torch7 files are converted by our own `conversion`, proved, and nothing of the user's process is changed by it."""

import sys
from types import ModuleType

import pytest
import torch

import resnext
from resnext.weights import door
from resnext.weights.files import WeightsError, read_state_dict
from tests.helpers.pretrained import assert_right


@pytest.fixture
def fresh(monkeypatch):
    """A process in which `conversion` has not been imported, under whatever name."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "conversion" or name.startswith("resnext._conversion"):
            monkeypatch.delitem(sys.modules, name)
    yield monkeypatch
    for name in [name for name in sys.modules if name.startswith("resnext._conversion")]:
        del sys.modules[name]


def test_sys_path_and_what_else_is_called_conversion_stay_as_they_were(fresh, sample):
    theirs = {name: ModuleType(name) for name in ("conversion", "conversion.t7", "tests")}
    for name, module in theirs.items():
        fresh.setitem(sys.modules, name, module)
    path = list(sys.path)
    assert_right(resnext.from_checkpoint(sample))
    assert sys.path == path
    assert all(sys.modules[name] is module for name, module in theirs.items())
    assert {name for name in sys.modules if name.partition(".")[0] == "conversion"} == {"conversion", "conversion.t7"}


def test_a_module_on_the_path_is_not_mistaken_for_ours(fresh, sample, tmp_path):
    (tmp_path / "conversion.py").write_text("raise RuntimeError('another module')")
    fresh.syspath_prepend(tmp_path)
    assert_right(resnext.from_checkpoint(sample))


def test_missing_packages_are_named(fresh, sample):
    fresh.setitem(sys.modules, "torchfile", None)
    with pytest.raises(WeightsError, match="converting it needs torchfile: pip install torchfile numpy"):
        read_state_dict(sample)


def test_without_the_folder(fresh, sample, tmp_path):
    fresh.setattr(door, "FOLDER", tmp_path / "conversion")
    with pytest.raises(WeightsError, match=f"converting it needs {tmp_path / 'conversion'}"):
        read_state_dict(sample)


# --- the proof -------------------------------------------------------------------------------------------------------


def test_a_conversion_that_computes_something_else_is_refused(sample, monkeypatch):
    verify = door.conversion("verify")

    def wrong(conversion, *arguments):
        with torch.no_grad():
            conversion.state_dict["layer2.0.bn1.weight"].mul_(1.01)
        return prove(conversion, *arguments)

    prove = verify.verify
    monkeypatch.setattr(verify, "verify", wrong)
    with pytest.raises(WeightsError, match=r"differs from the file's own: logits within .*first to differ: layer2"):
        read_state_dict(sample)


def test_a_graph_that_cannot_be_run_leaves_the_conversion_unproved_with_a_warning(sample, monkeypatch):
    graph = door.conversion("graph")

    def unsupported(obj):
        raise graph.UnsupportedLayerError("unsupported layers: nn.New (modules[3])", path=str(sample))

    monkeypatch.setattr(graph, "to_module", unsupported)
    with pytest.warns(UserWarning, match=r"the conversion is not proved: .*nn\.New \(modules\[3\]\)") as seen:
        model = resnext.from_checkpoint(sample)
    assert [warning.filename for warning in seen] == [__file__]
    assert_right(model)


def test_what_was_not_taken_over_as_it_stands_is_said_at_the_callers_line(models):
    with pytest.warns(UserWarning, match=r"cifar10_resnext11_4x8d_B\.t7: \d+ ") as seen:
        resnext.from_checkpoint(models["cifar10_resnext11_4x8d_B"])
    assert [warning.filename for warning in seen] == [__file__]
